"""The head against its peers: time, extra memory, errors and wrong ERC decisions; kernels' shares.

Rows are keyed by dtype, shape, op and case. Time is the median of CUDA events around one call after
a warm-up; memory is the allocator's peak beyond what was there and the gradients that are left.
Errors are against float64 on some of the rows.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from statistics import median

import torch
from peers import Peer, peers
from rows import Rows
from step import Task, told
from torch import Tensor
from truth import Truth
from variants import compare

SHAPES = (  # dtype, N, D, V; what has never been measured comes first
    ("float16", 8192, 1536, 151_936),
    ("bfloat16", 8192, 1536, 151_936),
    ("bfloat16", 8192, 640, 49_152),
    ("float32", 4096, 1536, 151_936),
    ("bfloat16", 8192, 1152, 262_144),
    ("bfloat16", 16_384, 2048, 151_936),
    ("float32", 4096, 640, 49_152),
    ("float32", 2048, 1152, 262_144),
)
TINY = (("float16", 32, 128, 512), ("float32", 32, 128, 512))
SWEPT = (("bfloat16", 8192, 1536, 151_936),)
CLIPPED = (0.0, 0.2, 0.6)
COLUMNS = (
    *("version", "median_ms", "low_ms", "repeats", "peak_extra_mib", "of_floor"),
    *("logprob_error", "entropy_error", "gradient_error", "wrong_erc_frac", "clipped_erc_frac"),
    "skipped",
)


class Work:
    """The inputs of one shape: bf16 numbers in any dtype, rows from flat to peaked."""

    def __init__(self, dtype: str, n: int, d: int, v: int, device: str):
        g = torch.Generator(device).manual_seed(0)
        number = getattr(torch, dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, device=device)

        order = torch.randperm(n, generator=g, device=device)
        scale = torch.linspace(0.5, 8, n, device=device)[order]
        hidden = normal(n, d) * scale[:, None]
        self.moved = (hidden + 0.1 * scale[:, None] * normal(n, d)).bfloat16().to(number)
        self.hidden = hidden.bfloat16().to(number).requires_grad_()
        self.weight = (normal(v, d) / d**0.5).bfloat16().to(number).requires_grad_()
        self.targets = torch.randint(0, v, (n,), generator=g, device=device)
        order, base = torch.rand(n, generator=g, device=device), normal(n) / n
        self.upstream = {c: torch.where(order < c, 0.0, base) for c in CLIPPED}

    def run(self, peer: Peer, case: str | float) -> None:
        self.hidden.grad = self.weight.grad = None
        inputs = self.hidden, self.weight, self.targets
        if case == "forward":
            assert peer.op is not None
            with torch.no_grad():
                peer.op(*inputs)
            return
        upstream = self.upstream[float(case)]
        if peer.loss is not None:
            peer.loss(*inputs, upstream).backward()
        else:
            assert peer.op is not None
            (peer.op(*inputs)[0].float() * upstream).sum().backward()


def times_ms(call: Callable[[], object], device: str, seconds: float = 0.2) -> list[float]:
    """Each call by itself, after one that warms up: 3 to 50 calls, about `seconds` in all."""
    call()
    found: list[float] = []
    spent = 0.0
    while len(found) < 3 or (spent < 1e3 * seconds and len(found) < 50):
        if device == "cpu":
            started = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - started))
        else:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            call()
            last.record()
            last.synchronize()
            found.append(first.elapsed_time(last))
        spent += found[-1]
    return found


def peak_extra_mib(work: Work, peer: Peer, case: str | float) -> str:
    work.run(peer, case)  # compiles, and allocates what stays
    if not work.hidden.is_cuda:
        return ""
    work.hidden.grad = work.weight.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work.run(peer, case)
    left = 0 if case == "forward" else work.hidden.nbytes + work.weight.nbytes
    return f"{(torch.cuda.max_memory_allocated() - before - left) / 2**20:.0f}"


def measure(rows: Rows, work: Work, truth: Truth, peer: Peer, key: tuple, floor: float) -> None:
    """The rows of one op: forward, then both passes with 0, 20 and 60 % of the rows clipped."""
    cases: list[str | float] = [] if peer.op is None else ["forward"]
    for case in (*cases, *(CLIPPED if peer.name == "erclip" else CLIPPED[:1])):
        if rows.has(*key, peer.name, case):
            continue
        extra: dict[str, object] = {"version": peer.version}
        try:
            extra["peak_extra_mib"] = peak_extra_mib(work, peer, case)
            if case == "forward":
                extra |= truth.of_scores(peer, work)
            elif case == 0.0 and not peer.own_loss:
                extra["gradient_error"] = truth.of_gradient(work)
            found = times_ms(lambda c=case: work.run(peer, c), work.hidden.device.type)
        except Exception as error:  # whatever a peer raises is its row
            text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            rows.add(*key, peer.name, case, skipped=text)
            continue
        extra |= {"median_ms": f"{median(found):.3f}", "low_ms": f"{min(found):.3f}"}
        extra |= {"repeats": len(found), "of_floor": f"{median(found) / floor:.2f}"}
        rows.add(*key, peer.name, case, **extra)


def floors(rows: Rows, work: Work, key: tuple) -> float:
    """Milliseconds of the bare product; what leaves in float32 is the floor of an exact head."""
    hidden, weight = work.hidden.detach(), work.weight.detach()
    wide = hidden.is_cuda and hidden.dtype != torch.float32
    ways: dict[str, Callable[[], object]] = {"bare matmul": lambda: torch.mm(hidden, weight.T)}
    if wide:
        wider = functools.partial(torch.mm, hidden, weight.T, out_dtype=torch.float32)
        ways["bare matmul, out in float32"] = wider
    found = {}
    for name, call in ways.items():
        times = times_ms(call, hidden.device.type)
        found[name] = median(times)
        if not rows.has(*key, name, "forward"):
            values = {"median_ms": f"{found[name]:.3f}", "low_ms": f"{min(times):.3f}"}
            rows.add(*key, name, "forward", repeats=len(times), **values)
    return found["bare matmul"]


def kernels(rows: Rows, work: Work, key: tuple, everybody: list[Peer]) -> None:
    """How long each kernel of erclip's two passes runs, as rows of their own."""
    if not work.hidden.is_cuda or rows.has(*key, "erclip", "kernel 1"):
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        work.run(everybody[0], 0.0)
        torch.cuda.synchronize()
    events = sorted(record.key_averages(), key=lambda e: -e.self_device_time_total)
    for number, event in enumerate(events[:10], 1):
        took = f"{event.self_device_time_total / 1e3:.3f}"
        name = f"{event.key[:80]}, {event.count} times"
        rows.add(*key, "erclip", f"kernel {number}", median_ms=took, version=name)


def main(task: Task) -> None:
    rows = Rows(task.out / "head.csv", ("dtype", "n", "d", "v", "op", "case"), COLUMNS)
    everybody = peers()
    for peer in everybody:
        print(peer.name, peer.version, peer.reason, flush=True)
    for key in TINY if task.tiny else SHAPES:
        if rows.has(*key, "all", "done"):
            continue
        task.stop_if_late(10 if task.device == "cuda" else 0)
        work = Work(*key, task.device)
        truth = Truth(work)
        floor = floors(rows, work, key)
        for peer in everybody:
            task.stop_if_late(3)
            if peer.op is None and peer.loss is None:
                if not rows.has(*key, peer.name, "forward"):
                    rows.add(*key, peer.name, "forward", skipped=peer.reason)
                continue
            measure(rows, work, truth, peer, key, floor)
        kernels(rows, work, key, everybody)
        if key in SWEPT or (task.tiny and key[0] != "float32"):
            compare(rows, work, key, task)
        rows.add(*key, "all", "done")
        del work, truth
        gc.collect()
        if task.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(told(__doc__))
