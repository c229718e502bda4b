"""SkyRL on a CPU: its own policy worker, with what asks for CUDA patched, as its own tests do."""

from __future__ import annotations

import sys
import typing
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

if find_spec("skyrl") is None:  # only `make test-skyrl` has it
    collect_ignore_glob = ["test_worker.py", "test_contract.py"]
else:
    import transformers.modeling_utils  # noqa: F401  (asks for the real FlashAttention, once)

    if sys.version_info < (3, 12):  # where pydantic refuses the TypedDict of SkyRL's records
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict
    for name in (  # imported at the top of modules of SkyRL, called on GPUs only
        "flash_attn",
        "flash_attn.bert_padding",
        "vllm_router",
        "vllm_router.launch_router",
        "vllm_router.router_args",
    ):
        if find_spec(name.partition(".")[0]) is None or name.partition(".")[0] in sys.modules:
            absent = MagicMock(__spec__=ModuleSpec(name, None), __path__=[])
            sys.modules.setdefault(name, absent)


@pytest.fixture
def cfg():
    from skyrl.train.config import SkyRLTrainConfig

    cfg = SkyRLTrainConfig()
    cfg.trainer.micro_train_batch_size_per_gpu = 2
    cfg.trainer.micro_forward_batch_size_per_gpu = 2
    cfg.trainer.remove_microbatch_padding = False
    cfg.trainer.algorithm.temperature = 1.0
    cfg.trainer.algorithm.use_kl_loss = False
    return cfg


@pytest.fixture
def registry():
    """SkyRL's registry of policy losses, as it is when a run begins."""
    from skyrl.backends.skyrl_train.utils.ppo_utils import (
        PolicyLossRegistry,
        repopulate_all_registries,
    )

    PolicyLossRegistry.reset()
    repopulate_all_registries()
    yield PolicyLossRegistry
    PolicyLossRegistry.reset()
    repopulate_all_registries()


@pytest.fixture
def worker(monkeypatch):
    """A function that makes a policy worker of a class, with a model that answers as told."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())

    def make(kind, cfg, model):
        place = {"world_size": 1, "rank": 0, "local_rank": 0, "sequence_parallel_size": 1}
        made = kind(cfg=cfg.trainer, master_addr="localhost", master_port=1, **place)
        made.strategy = SimpleNamespace(
            backward=lambda loss, *_: loss.backward(), all_reduce=lambda values, **_: values
        )
        made.device_mesh = SimpleNamespace(get_group=lambda _: None)
        made.mesh_rank = SimpleNamespace(dp_size=1)
        made.scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])
        made.optimizer, made.model = None, model
        return made

    return make
