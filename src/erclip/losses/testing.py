"""What every policy loss promises, as a check that anybody can put a part of their own through.

    check_loss(policy_loss(reinforce(), constraints=[my_rule()]))

Letters: B responses, T tokens, K tokens of the vocabulary at each of them.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erclip.losses.parts import Part
from erclip.losses.policy import policy_loss
from erclip.losses.types import LossOutput, Statistics

Inputs = Mapping[str, Tensor]
K = 3
LIVE = {"logprobs": 1, "entropies": 1, "top_logprobs": K}
"""The inputs through which a gradient may flow, and how many numbers of a token they are."""


class Result(NamedTuple):
    """What a loss reports, and its gradient for each input that may have one, [B, T] each."""

    out: LossOutput
    gradient: Tensor


def random_inputs(
    seed: int, responses: int = 6, length: int = 7, spread: float = 0.4
) -> dict[str, Tensor]:
    """Every input of a loss in float64, drawn at random; responses differ in length, none is empty.

    `spread` is the standard deviation of log r: how far the policies have drifted apart.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (responses, length)
    lengths = torch.randint(1, length + 1, (responses, 1), generator=generator)
    old = -normal(*shape).abs()
    old_entropies = normal(*shape).abs()
    likeliest = torch.log_softmax(normal(*shape, 5), -1)[..., :K]
    return {
        "logprobs": old + spread * normal(*shape),
        "old_logprobs": old,
        "sampler_logprobs": old + spread / 2 * normal(*shape),
        "top_logprobs": torch.log_softmax(normal(*shape, 5), -1)[..., :K],
        "sampler_top_logprobs": likeliest,
        "reference_logprobs": old + spread * normal(*shape),
        "advantages": normal(responses, 1).expand(shape).contiguous(),
        "mask": torch.arange(length) < lengths,
        "entropies": old_entropies * (1 + spread / 4 * normal(*shape)).abs(),
        "old_entropies": old_entropies,
        "entropy_slopes": normal(*shape),
        "entropy_slope_means": normal(*shape),
        "correct": (torch.rand(responses, 1, generator=generator) < 0.5).expand(shape).contiguous(),
        "lots": torch.rand(shape, generator=generator, dtype=torch.float64),
    }


def check_loss(loss_fn: policy_loss, seeds: Sequence[int] = range(4)) -> None:
    """Raise AssertionError, with a sentence, for the first promise that a loss breaks.

    It is a value (printed, compared, pickled); it reads what it says it needs, and nothing outside
    the mask; its gradient is finite, on an empty batch too; micro-batches and processes add up to
    the whole, response by response in any order, and its rules decide alike in all of them.
    """
    _check_value(loss_fn)
    for seed in seeds:
        inputs = random_inputs(seed, spread=(0.05, 0.4, 2.0)[seed % 3])
        whole = _run(loss_fn, inputs)
        assert whole.gradient.isfinite().all(), f"{loss_fn!r}: a gradient is not finite."
        _check_needs(loss_fn, inputs, whole)
        _check_padding(loss_fn, inputs, whole)
        _check_order(loss_fn, inputs, whole, seed)
        _check_cuts(loss_fn, inputs, whole)
    inputs = random_inputs(0)
    empty = _run(loss_fn, {**inputs, "mask": torch.zeros_like(inputs["mask"])})
    assert empty.out.loss == 0, f"{loss_fn!r}: the loss of no token is {empty.out.loss.item()}."
    assert not empty.gradient.any(), f"{loss_fn!r}: no token has a gradient."


def _check_value(loss_fn: policy_loss) -> None:
    for part in loss_fn.parts:
        if isinstance(part, Part):
            again = eval(repr(part), {type(part).__name__: type(part)})  # noqa: S307
            assert again == part, f"{part!r} is not what it prints."
            assert pickle.loads(pickle.dumps(part)) == part, f"{part!r} does not pickle."  # noqa: S301


def _check_needs(loss_fn: policy_loss, inputs: Inputs, whole: Result) -> None:
    always = {"logprobs", "old_logprobs", "advantages", "mask"}
    needed = {name.removeprefix("live_") for name in loss_fn.needs}
    few = {name: value for name, value in inputs.items() if name in always | needed}
    _same(whole, _run(loss_fn, few), f"{loss_fn!r}: it reads more than its `needs`")
    for name in sorted(needed - {"lots"}):
        try:
            _run(loss_fn, {key: value for key, value in few.items() if key != name})
        except ValueError:
            continue
        raise AssertionError(f"{loss_fn!r}: it says that it needs {name}, and runs without.")


def _check_padding(loss_fn: policy_loss, inputs: Inputs, whole: Result) -> None:
    outside = ~inputs["mask"]
    for rubbish in (math.nan, math.inf, -1e30):
        dirty = {}
        for name, value in inputs.items():
            flags = value.dtype == torch.bool
            masked = outside if value.dim() == 2 else outside[..., None]
            inside = value if flags else value.masked_fill(masked, rubbish)
            column = _column(value, name == "correct" if flags else rubbish)
            dirty[name] = torch.cat([inside, column], 1)
        found = _run(loss_fn, dirty)
        assert not found.gradient[..., -1].any(), f"{loss_fn!r}: padding has a gradient."
        _same(whole, found, f"{loss_fn!r}: what lies outside the mask changes it", slice(-1))


def _check_order(loss_fn: policy_loss, inputs: Inputs, whole: Result, seed: int) -> None:
    count = len(inputs["mask"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    found = _run(loss_fn, {name: value[order] for name, value in inputs.items()})
    back = order.argsort()
    _same(whole, _rows(found, back), f"{loss_fn!r}: the order of responses changes it")


def _check_cuts(loss_fn: policy_loss, inputs: Inputs, whole: Result) -> None:
    """Micro-batches of one and of four responses, on one process and on three."""
    statistics = loss_fn.statistics([inputs]) if loss_fn.mini_batch_rules else {}
    count, total = len(inputs["mask"]), int(inputs["mask"].sum())
    for size, processes in ((1, 1), (4, 1), (1, 3)):
        micros = [
            {name: value[i : i + size] for name, value in inputs.items()}
            for i in range(0, count, size)
        ]
        shares = [micros[rank::processes] for rank in range(processes)]
        for found in _on_processes(loss_fn, shares):
            assert found == statistics, (
                f"{loss_fn!r}: its statistics are {found} for micro-batches of {size} on "
                f"{processes} process(es), and {statistics} for the whole."
            )
        parts = [_run(loss_fn, m, num_tokens=total, statistics=statistics or None) for m in micros]
        words = f"{loss_fn!r}: micro-batches of {size} do not add up to the whole"
        _same(whole, _concatenate(parts), words)


def _on_processes(loss_fn: policy_loss, shares: Sequence[Sequence[Inputs]]) -> list[Statistics]:
    """The statistics that each process takes of its share, all in step."""
    if not loss_fn.mini_batch_rules:
        return []
    barrier = threading.Barrier(len(shares))
    board: dict[int, Tensor] = {}
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        def gather(values: Tensor) -> Tensor:
            board[rank] = values
            barrier.wait()
            everywhere = torch.cat([board[other] for other in range(len(shares))])
            barrier.wait()
            return everywhere

        try:
            found[rank] = loss_fn.statistics(shares[rank], gather)
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(shares), f"{loss_fn!r}: a process failed to take its statistics."
    return [found[rank] for rank in range(len(shares))]


def _run(loss_fn: policy_loss, inputs: Inputs, **more: Any) -> Result:
    leaves = {name: inputs[name].clone().requires_grad_() for name in LIVE if name in inputs}
    given: dict[str, Any] = {**inputs, **leaves, **more}
    out = loss_fn(**given)
    if out.loss.requires_grad:
        out.loss.backward()
    grads = []
    for name, count in LIVE.items():
        grad = leaves[name].grad if name in leaves else None
        shape = (*inputs["mask"].shape, count)
        grads.append(inputs["logprobs"].new_zeros(shape) if grad is None else grad.view(shape))
    return Result(out, torch.cat(grads, -1).movedim(-1, 0))


def _rows(result: Result, order: Tensor) -> Result:
    out = result.out
    reports = [
        {name: value[order] for name, value in found.items()}
        for found in (out.clipped, out.weights, out.terms)
    ]
    moved = LossOutput(out.loss, out.ratio[order], None, *reports)
    return Result(moved, result.gradient[:, order])


def _concatenate(parts: Sequence[Result]) -> Result:
    outs = [part.out for part in parts]
    reports = [
        {name: torch.cat([getattr(out, kind)[name] for out in outs]) for name in first}
        for kind in ("clipped", "weights", "terms")
        for first in [getattr(outs[0], kind)]
    ]
    loss, ratio = torch.stack([out.loss for out in outs]).sum(), torch.cat([o.ratio for o in outs])
    gradient = torch.cat([part.gradient for part in parts], 1)
    return Result(LossOutput(loss, ratio, None, *reports), gradient)


def _same(one: Result, other: Result, words: str, columns: slice = slice(None)) -> None:
    """The same decisions, and the same numbers but for the last bits of a float64 sum."""
    assert _close(one.out.loss.detach(), other.out.loss.detach()), f"{words} (the loss)."
    assert _close(one.gradient, other.gradient[..., columns]), f"{words} (the gradient)."
    for kind in ("clipped", "weights", "terms"):
        first, second = getattr(one.out, kind), getattr(other.out, kind)
        assert list(first) == list(second), f"{words} (the names of its {kind})."
        for name, values in first.items():
            found = second[name][..., columns]
            alike = torch.equal(values, found) if kind == "clipped" else _close(values, found)
            assert alike, f"{words} ({name})."


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def _column(like: Tensor, value: float | bool) -> Tensor:
    return torch.full_like(like[:, :1], value)
