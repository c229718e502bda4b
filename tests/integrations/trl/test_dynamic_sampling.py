"""Which groups are kept, where fresh prompts come from, and what a rank trains on."""

from __future__ import annotations

import pytest
import torch

from erclip.integrations.trl import groups

from .conftest import history, next_batches


def rows(completions, prompt="p"):
    """Rows of the given completion lengths; ids tell them apart."""
    width = max(completions)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in completions])
    count = len(completions)
    return {
        "prompt_ids": torch.arange(count)[:, None] + 100,
        "prompt_mask": torch.ones(count, 1, dtype=torch.long),
        "completion_ids": mask * (torch.arange(count)[:, None] + 1),
        "completion_mask": mask,
        "advantages": torch.arange(count) + 1.0,
    }


def test_a_group_without_any_reward_or_with_equal_ones_is_dropped():
    nan = float("nan")
    rewards = torch.tensor([[0.1, 0.2], [0.2, 0.1], [1, nan], [0, nan], [nan, nan], [1, 0]])
    keep = groups.informative(rewards, torch.tensor([1.0, 1.0]), 2)
    assert keep.tolist() == [False, False, True, True, False, False]
    keep = groups.informative(rewards, torch.tensor([1.0, 0.0]), 2)  # the weights decide
    assert keep.tolist() == [True, True, True, True, False, False]


def test_fresh_prompts_repeat_with_the_seed_and_cover_all_ranks():
    data = [{"prompt": str(i)} for i in range(50)]
    shares = [groups.extra_rows(data, 3, 4, ("seed", 1), rank, 2) for rank in (0, 1)]
    assert shares == [groups.extra_rows(data, 3, 4, ("seed", 1), rank, 2) for rank in (0, 1)]
    assert shares[0] != groups.extra_rows(data, 3, 4, ("seed", 2), 0, 2)
    prompts = [row["prompt"] for share in shares for row in share]
    assert [prompts[i : i + 4] for i in (0, 4, 8)] == [[p] * 4 for p in prompts[::4]]
    assert len(set(prompts)) == 3
    uneven = [groups.extra_rows(data, 1, 3, ("seed",), rank, 2) for rank in (0, 1)]
    assert [len(share) for share in uneven] == [3, 3]  # a second prompt keeps the ranks equal


def test_rounds_of_different_width_are_padded_on_their_own_side():
    short, wide = rows([1, 2]), rows([3])
    wide["prompt_ids"], wide["prompt_mask"] = torch.tensor([[7, 8]]), torch.ones(1, 2).long()
    joined = groups.concatenate([short, wide], pad_id=9)
    assert joined["prompt_ids"].tolist() == [[9, 100], [9, 101], [7, 8]]
    assert joined["prompt_mask"].tolist() == [[0, 1], [0, 1], [1, 1]]
    assert joined["completion_ids"].tolist() == [[1, 0, 9], [2, 2, 9], [1, 1, 1]]
    assert joined["completion_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_every_rank_gets_as_many_rows_and_fillers_count_nothing():
    dealt = [groups.deal(rows([2, 1, 3, 2, 1]), steps=2, rank=rank, ranks=2) for rank in (0, 1)]
    assert [len(part["prompt_ids"]) for part in dealt] == [4, 4]
    together = {name: torch.cat([part[name] for part in dealt]) for name in dealt[0]}
    assert together["prompt_ids"][:5, 0].tolist() == [100, 101, 102, 103, 104]
    assert together["completion_mask"].sum(1).tolist() == [2, 1, 3, 2, 1, 0, 0, 0]
    assert together["advantages"].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]


def test_trimming_takes_padding_only():
    wide = groups.concatenate([rows([1, 2]), rows([4])], pad_id=9)
    narrow = groups.trim(groups.select(wide, torch.tensor([True, True, False])))
    assert narrow["completion_ids"].tolist() == [[1, 0], [2, 2]]
    assert narrow["prompt_ids"].tolist() == [[100], [101]]
    empty = groups.select(wide, torch.tensor([True, False, False]))
    empty["completion_mask"] = torch.zeros_like(empty["completion_mask"])
    assert groups.trim(empty)["completion_ids"].shape == (1, 1)


@pytest.mark.parametrize("kind", ["drop", "refill", "oversample"])
def test_what_is_trained_on_has_signal_and_a_full_count(make, problems, kind, monkeypatch):
    trainer = make(dynamic_sampling=kind)
    monkeypatch.setattr(
        trainer,
        "reward_funcs",
        [lambda index, **_: [i % 3 and (k % 2) for k, i in enumerate(index)]],
    )  # every third problem is always wrong
    monkeypatch.setattr(trainer, "reward_func_names", ["rigged"])
    batches = next_batches(trainer)
    live = [b["completion_mask"].any(1) for b in batches]
    assert all(
        (b["advantages"][mask].abs() > 0.5).all() for b, mask in zip(batches, live, strict=True)
    )
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    kept, sampled = sum(int(mask.sum()) for mask in live), logged["train/responses"]
    assert len({len(b["prompt_ids"]) for b in batches}) == 1
    tokens = sum(int(b["completion_mask"].sum()) for b in batches)
    assert {int(b["num_items_in_batch"]) for b in batches} == {tokens}
    if kind == "drop":
        assert sampled == 64
        assert kept < 64
        assert kept == logged["train/groups_kept_frac"] * sampled
    else:
        assert kept == 64
        assert sampled == (128 if kind == "oversample" else sampled) > 64
    for batch in batches:  # old and new policy are one: every ratio is 1 to the last bit
        out = trainer._score(trainer.model, batch)
        assert torch.equal(out.entropies, batch["old_entropies"])
        assert torch.equal(out.logprobs.detach(), batch["old_per_token_logps"])


def test_nothing_to_learn_moves_no_weight(make, monkeypatch):
    trainer = make(dynamic_sampling="drop", max_steps=4)
    monkeypatch.setattr(trainer, "reward_funcs", [lambda index, **_: [1.0] * len(index)])
    monkeypatch.setattr(trainer, "reward_func_names", ["constant"])
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert history(trainer, "loss") == [0.0] * 4
    assert history(trainer, "train/tokens") == [0.0] * 4
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
