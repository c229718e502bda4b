"""One thread for every test; names that every doctest may use without importing them."""

import os

# Two threads wait for each other: beside a busy core a test takes ten times as long.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import erclip


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch
    doctest_namespace.update({name: getattr(erclip, name) for name in erclip.__all__})
