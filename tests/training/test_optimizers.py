"""Schedules update by update, by hand; the 8-bit optimiser follows the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from erclip.config import TrainerConfig
from erclip.errors import UserError
from erclip.training.optimizers import build_optimizer, build_schedule

CASES = {
    "constant": [0.5, 1, 1, 1, 1, 1, 1, 1],
    "linear": [0.5, 1, *(k / 7 for k in range(6, 0, -1))],
    "cosine": [0.5, *(0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(7))],
    "cosine_with_min_lr": [
        0.5,
        *(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(7)),
    ],
    "polynomial": [0.5, 1, *((k / 7) * (1 - 1e-6) + 1e-6 for k in range(6, 0, -1))],
    "inverse_sqrt": [0.5, *(math.sqrt(2 / k) for k in range(2, 9))],
    "warmup_stable_decay": [
        0.5, 1, 1, 1, 1, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(1, 4))
    ],
}  # fmt: skip
MORE = {"polynomial": {"lr_end": 1e-7}, "warmup_stable_decay": {"num_decay_steps": 4}}


def settings(**more):
    sizes = {"rollouts": 2, "updates_per_rollout": 2, "epochs": 2, "warmup_updates": 2}
    return TrainerConfig.model_validate({**sizes, "learning_rate": 0.1, **more})


@pytest.mark.parametrize("kind", CASES)
def test_a_schedule_update_by_update(kind):
    config = settings(schedule={"kind": kind, **MORE.get(kind, {})})
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config)
    schedule = build_schedule(optimizer, config)
    rates = []
    for _ in range(8):
        rates.append(schedule.get_last_lr()[0] / 0.1)
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(CASES[kind], abs=1e-9)


def test_a_schedule_goes_on_from_its_state():
    config = settings(schedule="cosine")
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config)
    schedule, again = (build_schedule(optimizer, config) for _ in range(2))
    for _ in range(3):
        optimizer.step()
        schedule.step()
    again.load_state_dict(schedule.state_dict())
    assert again.get_last_lr() == schedule.get_last_lr()
    optimizer.step()
    again.step()
    assert again.get_last_lr()[0] == pytest.approx(0.1 * CASES["cosine"][4])


def test_8bit_needs_its_package_and_one_process(monkeypatch):
    config = settings(optimizer="adamw_8bit")
    parameter = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="serves one process"):
        build_optimizer([parameter], config, processes=2)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'erclip\[8bit\]'"):
        build_optimizer([parameter], config)


def test_8bit_follows_the_exact_optimizer():
    """Ten steps of noise: the weights end within 2 % of the way they went; states are 8 bits."""
    pytest.importorskip("bitsandbytes")
    ends = []
    for kind in ("adamw", "adamw_8bit"):
        parameter = torch.nn.Parameter(torch.zeros(64, 128))
        optimizer = build_optimizer([parameter], settings(optimizer=kind, weight_decay=0.0))
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        ends.append(parameter.detach())
    assert (ends[1] - ends[0]).norm() < 0.02 * ends[0].norm()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8
