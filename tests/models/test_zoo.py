"""Every architecture of the zoo: scores, samples, ratios, adapters and folders are right."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from models.measure import COLUMNS, known, measure
from models.zoo import NAMES, NO_CACHE, SCALED

TABLE = Path(__file__).parents[2] / "docs" / "models.csv"
FAST = ("qwen3.5", "mixtral")
BOUND = 1e-4  # nats; float32
RECURRENT = {"nemotron-h": 2e-2, "zamba2": 2e-2, "qwen3.5": 2e-3, "qwen3.5-moe": 2e-3}
"""transformers' own recurrent steps, which differ from its pass over a whole text."""


def check(name, folder):
    if not known(name):
        pytest.skip("not in this release of transformers")
    row = measure(name, folder)
    assert row["head"] == ("logits" if name in SCALED else "op")
    if name in NO_CACHE:
        assert "cannot be sampled from here" in row["scored"]
        return
    assert float(row["scored"]) < BOUND
    assert float(row["sampled"]) < RECURRENT.get(name, BOUND)
    assert row["packed"] == "one by one" or float(row["packed"]) < BOUND
    assert float(row["lora"]) < BOUND
    assert float(row["checkpointed"]) < 1e-5


@pytest.mark.parametrize("name", FAST)
def test_an_architecture_is_right(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAST])
def test_every_architecture_is_right(name, tmp_path):
    check(name, tmp_path)


def test_the_table_has_a_row_of_each():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["model"] for row in rows] == [name for name in NAMES if known(name)]
