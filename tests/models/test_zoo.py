"""Every architecture of the zoo: scores, samples, ratios, adapters and folders are right."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models.families import WITHOUT
from models.measure import COLUMNS, known, measure
from models.zoo import NAMES, REFUSED, SCALED, config_of

TABLE = Path(__file__).parents[2] / "docs" / "models.csv"
FAST = ("qwen3.5", "mixtral")
BOUND = 1e-4  # nats; float32
RECURRENT = {
    "nemotron-h": 2e-2,
    "zamba2": 2e-2,
    "qwen3.5": 2e-3,
    "qwen3.5-moe": 2e-3,
    "qwen3_5": 2e-3,
    "qwen3_5_moe": 2e-3,
}
"""transformers' own recurrent steps, which differ from its pass over a whole text."""


def check(name, folder):
    if not known(name):
        pytest.skip("not in this release of transformers")
    row = measure(name, folder)
    assert row["head"] == ("logits" if name in SCALED else "op")
    if name in REFUSED:
        assert re.search("cannot be sampled from|beside a longer one", row["scored"])
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
    assert [row["model"] for row in rows] == NAMES


@pytest.mark.skipif(
    not Version("5.23") <= Version(transformers.__version__) < Version("5.25"),
    reason="has other families",
)
def test_every_family_of_transformers_has_a_row():
    measured = {config_of(name).model_type for name in NAMES if known(name)} | {"gpt-sw3"}
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - measured == set(WITHOUT)
