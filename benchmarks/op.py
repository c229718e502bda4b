"""Time and memory of the head, everybody interleaved in one process.

    python benchmarks/op.py --shape 2048 576 49152 --dtype float32 --rounds 5

One untimed round warms up and counts memory (torch's allocations; what is held at the end as
gradients is subtracted). Then every op runs once per round. CPU seconds are recorded beside wall
seconds: on a machine that others use too, they are the ones to compare, with one thread.
Rows go to results/op, in one file for each kind of machine and number of threads; they replace
those of the same shape and dtype.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.profiler import profile

from machine import kind, measured_on
from op_peers import Peer, peers

RESULTS = Path(__file__).parent / "results" / "op"
CLIPPED = (0.0, 0.2, 0.5, 0.6)


class Work:
    """One shape and dtype, with the upstream gradient of every share of clipped rows."""

    def __init__(self, n: int, d: int, v: int, dtype: torch.dtype, device: str):
        g = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(n, d, generator=g).to(device, dtype).requires_grad_()
        weight = torch.randn(v, d, generator=g).mul_(2 / d**0.5)
        self.weight = weight.to(device, dtype).requires_grad_()
        self.targets = torch.randint(0, v, (n,), generator=g).to(device)
        order = torch.rand(n, generator=g).to(device)
        base = torch.randn(n, generator=g).to(device) / n
        self.upstream = {c: torch.where(order < c, 0.0, base) for c in CLIPPED}

    def run(self, peer: Peer, case: str | float) -> None:
        assert peer.op is not None
        self.hidden.grad = self.weight.grad = None
        if case == "forward":
            with torch.no_grad():
                peer.op(self.hidden, self.weight, self.targets, self.upstream[0.0])
        else:
            peer.op(self.hidden, self.weight, self.targets, self.upstream[float(case)]).backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def peak_extra_mib(self, peer: Peer, case: str | float) -> float:
        """Peak of torch's allocations during the run, beyond the gradients it leaves behind."""
        self.hidden.grad = self.weight.grad = None
        with profile(profile_memory=True) as record:
            self.run(peer, case)
        held = peak = 0
        for event in record.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        gradients = 0 if case == "forward" else self.hidden.nbytes + self.weight.nbytes
        return (peak - gradients) / 2**20


def cases(peer: Peer) -> list[str | float]:
    """Only ours does less work for clipped rows, so only ours is timed for every share."""
    if peer.name == "bare matmul":
        return ["forward"]
    if peer.name.startswith("erclip,"):  # variants of the backward pass
        return [0.0]
    return ["forward", *(CLIPPED if peer.name == "erclip" else (0.0,))]


def measure(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = Work(*args.shape, getattr(torch, args.dtype), device)
    everybody, memory = [], {}
    for peer in peers():
        if args.only and peer.name not in args.only:
            continue
        try:
            for case in cases(peer) if peer.op is not None else []:
                if case in ("forward", 0.0):
                    memory[peer.name, case] = work.peak_extra_mib(peer, case)
            everybody.append(peer)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            everybody.append(peer._replace(op=None, reason=reason))
    print("warmed up", flush=True)
    todo = [(peer, case) for peer in everybody if peer.op is not None for case in cases(peer)]
    wall: dict = {(peer.name, case): [] for peer, case in todo}
    cpu: dict = {key: [] for key in wall}
    for index in range(args.rounds):
        for peer, case in todo[:: 1 if index % 2 == 0 else -1]:
            start, cpu_start = time.perf_counter(), time.process_time()
            work.run(peer, case)
            cpu[peer.name, case].append(time.process_time() - cpu_start)
            wall[peer.name, case].append(time.perf_counter() - start)
        print(f"round {index + 1} of {args.rounds}", flush=True)
    common = {
        **measured_on(),
        "threads": args.threads,
        "torch": torch.__version__,
        "dtype": args.dtype,
        **dict(zip(("n", "d", "v"), args.shape, strict=True)),
    }
    rows = []
    for peer in everybody:
        entry = {**common, "op": peer.name, "version": peer.version, "entropy": peer.entropy}
        if peer.op is None:
            rows.append({**entry, "skipped": peer.reason})
            continue
        for case in cases(peer):
            key = peer.name, case
            low, _, high = quantiles(cpu[key], n=4) if args.rounds > 1 else [cpu[key][0]] * 3
            rows.append(
                {
                    **entry,
                    "case": case if case == "forward" else "forward+backward",
                    "clipped_frac": "" if case == "forward" else case,
                    "rounds": args.rounds,
                    "wall_median_s": f"{median(wall[key]):.3f}",
                    "cpu_median_s": f"{median(cpu[key]):.3f}",
                    "cpu_q25_s": f"{low:.3f}",
                    "cpu_q75_s": f"{high:.3f}",
                    "peak_extra_mib": f"{memory[key]:.1f}" if key in memory else "",
                }
            )
    return rows


COLUMNS = (
    *("date", "commit", "hardware", "threads", "torch", "dtype", "n", "d", "v"),
    *("op", "version", "entropy", "case", "clipped_frac", "rounds"),
    *("wall_median_s", "cpu_median_s", "cpu_q25_s", "cpu_q75_s", "peak_extra_mib", "skipped"),
)


def record(path: Path, rows: list[dict]) -> None:
    """Write the rows beside those of other shapes and dtypes."""

    def work(row: dict) -> list[str]:
        return [str(row[name]) for name in ("dtype", "n", "d", "v")]

    path.parent.mkdir(parents=True, exist_ok=True)
    old = list(csv.DictReader(path.open())) if path.exists() else []
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in old if work(row) != work(rows[0]))
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(2048, 576, 49152))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of ops, for shapes that take long")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    threads = f"{args.threads}-thread{'s' * (args.threads > 1)}"
    out = args.out or RESULTS / f"{kind()}_{threads}.csv"
    rows = measure(args)
    record(out, rows)
    for row in rows:
        print(
            f"{row['op']:30s} {row.get('case', row.get('skipped', '')):18s}"
            f" {row.get('clipped_frac', ''):>4} {row.get('cpu_median_s', ''):>8} s"
            f" {row.get('peak_extra_mib', ''):>8} MiB"
        )


if __name__ == "__main__":
    main()
