"""The embedded model under `swift rlhf --rlhf_type grpo`, in this process and on a CPU."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import pytest
import torch

from erclip.embedded import embedded_model_dir

if find_spec("swift") is None:  # only `make test-swift` has it
    collect_ignore_glob = ["test_*.py"]
    TrainerCallback = object  # transformers' own loads PEFT and bitsandbytes: 3 s in each worker
else:
    os.environ.update(USE_HF="1", HF_HUB_OFFLINE="1")
    from transformers import TrainerCallback


def pytest_collection_modifyitems(items):
    for item in items:
        if "integrations/swift" in str(item.path):
            item.add_marker(pytest.mark.swift)


PLUGIN = """
from erclip.integrations.swift import use
from swift.rewards import ORM, orms


class Even(ORM):
    def __call__(self, completions, **_):
        return [float(sum(map(ord, text)) % 2) for text in completions]


orms["even"] = Even
"""
SMALL = {
    "rlhf_type": "grpo",
    "model": embedded_model_dir(),
    "model_type": "llama",
    "template": "dummy",
    "torch_dtype": "float32",
    "tuner_type": "full",
    "reward_funcs": "even",
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 4,
    "max_completion_length": 12,
    "max_steps": 4,
    "beta": 0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1e9,
    "gradient_checkpointing": False,
    "split_dataset_ratio": 0,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "dataloader_num_workers": 0,
    "dataset_num_proc": 1,
    "check_model": False,
}
ERC = {"surrogate": "gppo_clip", "constraints": ["entropy_ratio_clip"]}
NO_ERC = {"surrogate": {"kind": "ppo_clip", "low": 0.2, "high": 0.28}}


class Gradients(TrainerCallback):
    """The gradient of every optimiser step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        named = model.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


@pytest.fixture
def make(tmp_path, countdown):
    """A trainer of the embedded model, as ms-swift's own command builds it; stock without a loss.

    Settings override `SMALL`; names are those of the command line.
    """
    from swift.pipelines.train.rlhf import SwiftRLHF
    from swift.trainers import TrainerFactory

    class Built(SwiftRLHF):
        def train(self, trainer):
            trainer.add_callback(Gradients())
            return trainer

    rows = [{"messages": list(prompt.messages)} for prompt in countdown.train[:32]]
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    stock = TrainerFactory.TRAINER_MAPPING["grpo"]

    def make(loss=None, **settings):
        TrainerFactory.TRAINER_MAPPING["grpo"] = stock
        plugin = tmp_path / f"plugin_{len(list(tmp_path.iterdir()))}.py"
        plugin.write_text(PLUGIN + (f"\nuse({loss!r})\n" if loss is not None else ""))
        flags = {
            "dataset": data,
            "external_plugins": plugin,
            "output_dir": tmp_path / "out",
            **SMALL,
            **settings,
        }
        command = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        torch.manual_seed(0)
        return Built(command).main()

    yield make
    TrainerFactory.TRAINER_MAPPING["grpo"] = stock


def gradients(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Gradients)).steps


def history(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]
