"""The noise floor is zero where it has to be, and says so where it is not."""

from __future__ import annotations

import math

import pytest
import torch

from erclip.config import DataConfig
from erclip.diagnostics.layouts import LAYOUTS
from erclip.diagnostics.noise_floor import Floor, Measured, Plan, measure
from erclip.diagnostics.noise_page import noise_sheet, recommendation
from erclip.diagnostics.scoring import HEADS, Scored, clips, score
from erclip.errors import UserError
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows

PLAN = Plan(prompts=6, responses=2, max_tokens=12, rows=4)


@pytest.fixture(scope="module")
def measured():
    return measure("embedded", DataConfig(), PLAN)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_every_layout_scores_what_the_trainer_scores(layout, policy, responses):
    flat = [response for group in responses for response in group]
    samples = [Sample(r, Grade(True, "", "correct"), 1.0, 1.0) for r in flat]
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    expected = policy.score(batch)
    hidden = LAYOUTS[layout](policy.model, flat, 5)
    for head in HEADS:
        found = score(policy, hidden, flat, head)
        assert torch.allclose(found.logprobs, expected.logprobs[batch.mask], atol=2e-5, rtol=0)
        assert torch.allclose(found.entropies, expected.entropies[batch.mask], atol=2e-5, rtol=0)


def test_float32_clips_nothing_and_rounded_logits_do(measured):
    floors = {(f.dtype, f.head, f.layout): f for f in measured.floors}
    assert len(floors) == 7 + 14
    assert measured.notes == []
    for (dtype, _, layout), floor in floors.items():
        if dtype == "float32" or layout == "same":
            assert not floor.erc.any()
            assert not floor.ppo.any()
    exact, rounded = (
        sum(int(f.erc.sum()) for f in measured.floors if (f.dtype, f.head) == ("bfloat16", head))
        for head in HEADS
    )
    assert rounded > exact
    assert floors["bfloat16", "model", "update"].erc.any()


def floor(old: list[float], new: list[float], dtype: str = "bfloat16") -> Floor:
    a, b = (Scored(torch.full((len(old),), -1.0), torch.tensor(h)) for h in (old, new))
    return Floor(dtype, "float32", "batch", a, b, *clips(a, b, (0.05, 0.05), (0.2, 0.28)))


def test_clips_are_on_either_side_of_either_ratio():
    old = Scored(torch.zeros(5), torch.ones(5))
    gaps = torch.tensor([0.0, math.log(1.29), math.log(0.79), 0.0, 0.0])
    new = Scored(gaps, torch.tensor([1.0, 1.0, 1.0, 0.95, 1.0499]))
    erc, ppo = clips(old, new, (0.05, 0.05), (0.2, 0.28))
    assert erc.tolist() == [False, False, False, True, False]
    assert ppo.tolist() == [False, True, True, False, False]


def test_recommendation_names_a_remedy_that_works():
    noisy = floor([1.0] * 90 + [0.001] * 10, [1.0] * 90 + [0.0012] * 10)
    (sentence,) = recommendation(Measured([noisy], [], [50, 50]), PLAN)
    # p = 0.1, hits 0 and 10 of 50 tokens each: sd = √(2 · (5² + 5²)) / 100, t(1) = 12.706
    assert "10.00 ± 127.06 % of tokens clipped falsely (batch)" in sentence
    assert "min_entropy_change = 0.0005" in sentence  # |ΔH| is 0.0002: 0.0005 is the next step up
    assert "±0.2" in sentence
    still = floor([1.0] * 100, [1.01] * 100, "float32")
    (quiet,) = recommendation(Measured([still], [], [100]), PLAN)
    assert quiet.endswith("no token clipped falsely; no remedy needed.")


def test_the_page_leaves_out_what_clipped_nothing(measured):
    sheet = noise_sheet("embedded", measured, PLAN)
    assert len(sheet.tables[0].rows) == 21
    assert all(row[0] != "fp32" for table in sheet.tables[1:] for row in table.rows)
    assert all("float32 trunk" not in plot.title for plot in sheet.plots)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dtypes": ("int8",)}, "--dtype takes bfloat16, float16, float32, not 'int8'"),
        ({"heads": ("fp32",)}, "--head-dtype takes float32, model, not 'fp32'"),
        ({"layouts": ()}, "--layouts takes same, .*, update, not nothing"),
    ],
)
def test_names_that_are_none(change, complaint):
    with pytest.raises(UserError, match=complaint):
        measure("embedded", DataConfig(), Plan(**change))
