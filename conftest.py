"""One thread for all tests and what they start; names for doctests that import nothing."""

import os

# Two threads wait for each other: beside a busy core a test takes ten times as long. One thread
# also adds in one order.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import erclip


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch
    doctest_namespace.update({name: getattr(erclip, name) for name in erclip.__all__})
