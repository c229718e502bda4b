"""How rows are laid out changes memory and time, and no logged number.

Micro-batch size and prompts that are shared are here; two processes are in tests/processes, which
holds every line of metrics.jsonl, the ledger's rows and the samples against those of one.
"""

from __future__ import annotations

import copy
import random

import pytest
import torch

from diagnostics.conftest import train
from erclip.config.recipes import load_recipe
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import Row, micro_batches, shared_rows, single_rows
from erclip.training.updates import Updater, score_old


def rows_of(run, *overrides):
    return train(run, "trainer.rollouts=1", *overrides)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One rollout in micro-batches as large as they get, prompts shared where that is cheaper."""
    return rows_of(tmp_path_factory.mktemp("layouts") / "whole", "trainer.token_budget=100000")


def assert_same_numbers(got, expected):
    """Of a rollout and its updates: after the first one the weights differ by rounding."""
    assert [row["kind"] for row in got] == [row["kind"] for row in expected]
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"kind"}:
            if name.startswith("clip/"):  # single tokens at the edge of a band may flip
                assert abs(one[name] - other[name]) * one["train/tokens"] < 3.5, name
            elif not name.startswith("time"):
                assert one[name] == pytest.approx(other[name], rel=1e-4, abs=2e-6), name


@pytest.mark.parametrize("budget", [2000, 256])
def test_the_trainer_logs_the_same_with_another_token_budget(budget, reference, tmp_path):
    assert_same_numbers(rows_of(tmp_path / "run", f"trainer.token_budget={budget}"), reference)


def test_the_trainer_logs_the_same_whether_prompts_are_shared_or_not(
    reference, tmp_path, monkeypatch
):
    layouts = []

    def counted(self, samples, token_budget):
        samples = list(samples)
        rows = share(samples, 1, token_budget) if share else single_rows(samples)
        layouts.append((len(samples), len(rows)))
        return rows

    monkeypatch.setattr("erclip.training.policy.Policy.rows", counted)
    for share in (None, together):
        layouts.clear()
        lines = rows_of(tmp_path / f"{share}", "trainer.token_budget=2000")
        samples, rows = map(sum, zip(*layouts, strict=True))
        assert rows == samples if share is None else rows < 0.3 * samples
        assert_same_numbers(lines, reference)


def together(samples, hidden_size, token_budget):
    """All responses to a prompt in one row, whatever it costs."""
    siblings: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        siblings.setdefault(sample.response.prompt_ids, []).append(sample)
    return [Row(tuple(group)) for group in siblings.values()]


LAYOUTS = {
    "all in one": lambda samples: [single_rows(samples)],
    "a few rows": lambda samples: micro_batches(single_rows(samples), 200),
    "row by row": lambda samples: micro_batches(single_rows(samples), 1),
    "shared where cheaper": lambda samples: micro_batches(shared_rows(samples, 64, 400), 400),
    "all shared": lambda samples: micro_batches(together(samples, 64, 0), 400),
}


def test_fractions_do_not_depend_on_the_layout(policy, responses):
    """The same where many tokens are clipped, and exactly: old scores from other weights."""
    config = load_recipe("quickstart", ["trainer.warmup_updates=0"]).config
    rng = random.Random(0)
    samples = [
        Sample(response, Grade(True, "", "correct"), 1.0, rng.gauss(0, 1))
        for group in responses
        for response in group
    ]
    old = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in old.model.parameters():
            parameter.mul_(1.1)
    found, rows = {}, {}
    for name, layout in LAYOUTS.items():
        parts = layout(samples)
        rows[name] = sum(map(len, parts))
        batches = [make_batch(part, pad_id=policy.pad_id, device=policy.device) for part in parts]
        scored = [score_old(old, batch) for batch in batches]
        found[name] = Updater(copy.deepcopy(policy), config).update(scored)
    assert rows["all shared"] < rows["row by row"] == len(samples)
    expected = found["all in one"]
    assert expected["clip/erc_low_frac"] > 0.1
    assert expected["clip/ppo_frac"] > 0
    for name, metrics in found.items():
        for metric, value in expected.items():
            if metric.startswith("clip/"):
                assert metrics[metric] == value, (name, metric)
            else:
                near = pytest.approx(value, abs=1e-5, rel=1e-4)
                assert metrics[metric] == near, (name, metric)
