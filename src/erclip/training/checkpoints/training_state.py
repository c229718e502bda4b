"""Optimiser and schedule ↔ files: tensors as safetensors, numbers as JSON, no pickle.

Tensors are whole, whatever the number of processes was, so any number of processes may go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from erclip.machine.distributed import World
from erclip.machine.files import read_json, write_json
from erclip.training.updates import Updater

OPTIMIZER = "optimizer.safetensors"
NUMBERS = "optimizer.json"


def whole_weights(model: Any, world: World) -> dict[str, Any] | None:
    """All weights on the first process, None where the model holds them itself; a collective."""
    if world.size == 1:
        return None
    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def whole_optimizer(updater: Updater) -> dict[str, Any]:
    """The optimiser's state by parameter name, on the first process; a collective.

    Before the first update there is none, and torch would make one that has counted a step.
    """
    if not updater.optimizer.state:
        return {"state": {}, "param_groups": []}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_optimizer_state_dict(updater.policy.model, updater.optimizer, options=options)


def save_optimizer(state: dict[str, Any], updater: Updater, folder: Path) -> None:
    """`exp_avg.<parameter>`, `step.<parameter>`, … in one file; numbers and schedule beside it.

    What an optimiser nests (bitsandbytes does) is named `outer/inner.<parameter>`; a table that
    several parameters share is written for each.
    """
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    numbers: dict[str, Any] = {}
    for parameter, values in state["state"].items():
        for key, value in _flat(values):
            if isinstance(value, Tensor):
                shared = value.data_ptr() in places
                places.add(value.data_ptr())
                tensors[f"{key}.{parameter}"] = value.clone() if shared else value.contiguous()
            else:
                numbers[f"{key}.{parameter}"] = value
    save_file(tensors, folder / OPTIMIZER)
    rest = {
        "groups": state["param_groups"],
        "numbers": numbers,
        "scheduler": updater.scheduler.state_dict(),
    }
    write_json(folder / NUMBERS, rest)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def load_optimizer(updater: Updater, folder: Path, world: World) -> None:
    """Put back what `save_optimizer` wrote; a collective."""
    rest = read_json(folder / NUMBERS)
    updater.scheduler.load_state_dict(rest["scheduler"])
    state: dict[str, Any] = {}
    values: dict[str, Any] = dict(rest["numbers"])
    if world.first:
        values.update(load_file(folder / OPTIMIZER))
    for name, value in values.items():
        key, _, parameter = name.partition(".")
        held = state.setdefault(parameter, {})
        *outer, inner = key.split("/")
        for part in outer:
            held = held.setdefault(part, {})
        held[inner] = value
    if not any(world.gather(lambda: bool(state))):  # before the first update there is none
        return
    set_optimizer_state_dict(
        updater.policy.model,
        updater.optimizer,
        {"state": state, "param_groups": rest["groups"]},
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=world.size > 1),
    )
