"""The embedded model in TRL: a data set of countdown problems, its grader, small settings."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from erclip.embedded import embedded_model_dir
from erclip.records import Response

if find_spec("trl"):
    from datasets import Dataset
    from transformers import TrainerCallback

    from erclip.integrations.trl import ERCConfig, ERCTrainer
else:  # `make test-trl` has environments of its own
    collect_ignore_glob = ["*.py"]  # importing what TRL stands on takes seconds in every worker
    ERCConfig = ERCTrainer = None
    TrainerCallback = object


def pytest_collection_modifyitems(items):
    for item in items:
        if "integrations/trl" in str(item.path):
            item.add_marker(pytest.mark.trl)


@pytest.fixture(scope="session")
def problems(countdown):
    rows = [{"prompt": list(p.messages), "index": i} for i, p in enumerate(countdown.train[:32])]
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def correct(countdown):
    def correct(completions, completion_ids, index, **_):
        responses = [
            Response(countdown.train[i], (), tuple(ids), message[0]["content"], False, ())
            for i, ids, message in zip(index, completion_ids, completions, strict=True)
        ]
        return [float(grade.correct) for grade in countdown.grade(responses)]

    return correct


SMALL = {
    "max_steps": 4,
    "per_device_train_batch_size": 16,
    "steps_per_generation": 4,
    "num_generations": 8,
    "max_completion_length": 24,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 1e9,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}
NO_ERC = {"surrogate": {"kind": "ppo_clip", "low": 0.2, "high": 0.28}, "constraints": []}


class Gradients(TrainerCallback):
    """The gradient of every optimiser step, and the weights after the last."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        named = model.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


@pytest.fixture
def make(tmp_path, problems, correct):
    """A trainer of the embedded model; settings override `SMALL`."""

    def make(trainer=ERCTrainer, config=ERCConfig, *, model=None, extra=None, **settings):
        torch.manual_seed(0)
        args = config(str(tmp_path / "run"), **{**SMALL, **settings})
        return trainer(
            model=model or str(embedded_model_dir()),
            reward_funcs=correct,
            args=args,
            train_dataset=problems,
            callbacks=[Gradients()],
            **(extra or {}),
        )

    return make


def gradients(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Gradients)).steps


def history(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


def next_batches(trainer):
    """One generation's micro-batches, scored, as training would see them."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    rows = next(iter(trainer.get_train_dataloader()))
    trainer._prepare_inputs(rows)
    return trainer._buffered_inputs


def nudge(model, scale=3e-2):
    """Move the policy away from the old one, the same way every time."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * scale * parameter.std())
