"""FSDP2: each process holds a slice of every parameter and gathers a layer when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from erclip.machine.distributed import World

T = TypeVar("T")


def shard(model: Any, world: World) -> None:
    """Shard every decoder layer, and embeddings, norm and head as one group at the root.

    Tied embeddings are one parameter, so input and output embedding have to share a group.
    Gradients are summed, not averaged: every process divides by the token count of all of them.
    """
    mesh = init_device_mesh(model.device.type, (world.size,))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    for module in _sharded(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    model.within = MethodType(_within, model)
    register_fsdp_forward_method(model, "within")


def decoder_layers(model: Any) -> list[nn.Module]:
    """The modules that transformers itself never splits: one per decoder layer.

    Where it names none (CTRL), the list of modules that holds most of its weights.
    """
    names = set(model._no_split_modules or ())
    named = [module for module in model.modules() if type(module).__name__ in names]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return named or list(max(lists, key=_weights, default=[]))


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def gathered(model: Any) -> Generator[None]:
    """Whole parameters on every process, so that forward passes need no company: for sampling."""
    modules = _sharded(model)
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def whole(value: Tensor) -> Tensor:
    """A plain tensor from a sharded one; a collective, so all processes must ask."""
    full_tensor = getattr(value, "full_tensor", None)
    return value if full_tensor is None else full_tensor()


def _within(_: Any, work: Callable[[], T]) -> T:
    """Registered as a forward method: FSDP gathers the root's parameters around `work`."""
    return work()


def _sharded(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
