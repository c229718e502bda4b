"""A resumed run is the uninterrupted one, wherever in a generation it was cut."""

from __future__ import annotations

import pytest
import torch

from erclip.integrations.trl.resume import Generation, load, path_of, save

from .conftest import history

ADAPTIVE = {
    "surrogate": "ppo_clip",
    "constraints": ["entropy_ratio_clip", {"kind": "random_mask", "rate": 0.1}],
    "terms": [
        {"kind": "adaptive_entropy", "target": 9.0, "step": 0.01, "low": 0.0, "high": 0.2},
    ],
    "kl": {"weight": 0.1},
}


@pytest.mark.parametrize("save_steps", [4, 3], ids=["between generations", "within one"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dynamic_sampling": {"kind": "refill", "max_rounds": 3}},
        {"loss": ADAPTIVE},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2},
    ],
    ids=["default", "refill", "rules with a memory", "accumulated, two passes"],
)
def test_a_resumed_run_is_the_uninterrupted_one(make, tmp_path, settings, save_steps):
    settings = {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "optim": "adamw_torch",
        **settings,
    }
    whole = make(**settings)
    whole.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{save_steps}"))
    left = 8 - save_steps
    for name in ("loss", "clip/erc_frac", "policy/entropy", "grad_norm"):
        assert history(resumed, name)[-left:] == history(whole, name)[-left:], name
        assert len(history(resumed, name)) == 8
    for (name, a), b in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_checkpoint_without_its_generation_says_so(make, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make(**settings).train()
    folder = tmp_path / "run" / "checkpoint-2"
    path = path_of(folder, 0)
    assert path.stat().st_size < 100_000
    path.unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-2 has no generation of an ERCTrainer: resp"):
        make(**settings).train(resume_from_checkpoint=str(folder))
    save(Generation(2, 5, [{"x": torch.zeros(1)}], None), path)
    with pytest.warns(UserWarning, match=r"checkpoint-2 was written by 5 processes: responses"):
        make(**settings).train(resume_from_checkpoint=str(folder))
    save(Generation(2, 1, [{"x": torch.zeros(1)}], None), path)
    with pytest.warns(UserWarning, match=r"checkpoint-2 has steps_per_generation = 1: responses"):
        make(**settings).train(resume_from_checkpoint=str(folder))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    batches = [
        {"ids": whole[:, 1:], "num_images": [1, 2], "half": whole.bfloat16(), "none": None},
        {"ids": whole[:, :2], "count": torch.tensor(3)},
    ]
    statistics = {"rule()": {"coefficient": 0.1 + 0.2, "most": float("inf")}}
    path = path_of(tmp_path, 3)
    save(Generation(7, 2, batches, statistics), path)
    found = load(path, torch.device("cpu"))
    assert (found.step, found.ranks, found.statistics) == (7, 2, statistics)
    for got, want in zip(found.batches, batches, strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            same = torch.equal(got[name], value) if torch.is_tensor(value) else got[name] == value
            assert same, name
            assert not torch.is_tensor(value) or got[name].dtype == value.dtype
