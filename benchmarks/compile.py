"""What torch.compile of the trunk gains, and what it does to ratios at equal weights.

    python benchmarks/compile.py embedded models/smollm2 [--layers 6] [--rounds 5]

Each model's decoder layers, compiled (dynamic shapes) and not, in turns, over micro-batches of
several shapes: CPU seconds of a scoring pass without gradients and of a pass with its backward.
Then the same weights are compared with themselves: log π of the pass with gradients against the one
without, and the share of tokens whose entropy ratio leaves 1 ± 0.05, which should be 0.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics

import torch

from erclip.config import ModelConfig
from erclip.records import Grade, Prompt, Response
from erclip.training.batches import Sample, make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import Policy, load_policy
from erclip.training.sharding import decoder_layers

SHAPES = ((8, 20, 30), (6, 28, 36), (12, 16, 24))  # rows, prompt tokens, response tokens


def batches(policy: Policy):
    """Made-up tokens in three shapes."""
    rng = random.Random(0)
    vocab = policy.model.config.vocab_size
    found = []
    for rows, prompt, length in SHAPES:
        samples = []
        for _ in range(rows):
            ids = [rng.randrange(3, vocab) for _ in range(prompt + length)]
            asked, said = tuple(ids[:prompt]), tuple(ids[prompt:])
            response = Response(Prompt("", (), None), asked, said, "", True, (0.0,) * length)
            samples.append(Sample(response, Grade(False, None, "wrong"), 0.0, 1.0))
        found.append(make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device))
    return found


def load(path: str, layers: int | None, compiled: bool) -> Policy:
    """A policy of at most `layers` layers."""
    policy = load_policy(ModelConfig(path=path))
    if layers is not None:
        policy.model.model.layers = policy.model.model.layers[:layers]
    if compiled:
        for layer in decoder_layers(policy.model):
            layer.compile(dynamic=True)
    return policy


def score(policy: Policy, work) -> None:
    with torch.no_grad():
        for batch in work:
            policy.score(batch)


def update(policy: Policy, work) -> None:
    for batch in work:
        policy.score(batch).logprobs.sum().backward()
    policy.model.zero_grad(set_to_none=True)


def cpu_seconds(function, *arguments) -> float:
    """Of this process and of the compilers that it waited for."""
    started = used()
    function(*arguments)
    return used() - started


def used() -> float:
    """CPU seconds up to now."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def noise(policy: Policy, work) -> tuple[float, float]:
    """max |log r| and the share of tokens outside the entropy band, at equal weights."""
    gaps, outside = [], []
    for batch in work:
        with torch.no_grad():
            old = policy.score(batch)
        new = policy.score(batch)
        gaps.append((new.logprobs - old.logprobs)[batch.mask].detach().abs())
        rho = (new.entropies / old.entropies)[batch.mask]
        outside.append((rho - 1).abs() > 0.05)
    return torch.cat(gaps).max().item(), torch.cat(outside).float().mean().item()


def main() -> None:
    """A table per model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    for path in asked.models:
        policies = {
            "eager": load(path, asked.layers, compiled=False),
            "compiled": load(path, asked.layers, compiled=True),
        }
        work = batches(policies["eager"])
        times: dict[tuple[str, str], list[float]] = {}
        first = {
            name: cpu_seconds(score, policy, work) + cpu_seconds(update, policy, work)
            for name, policy in policies.items()
        }
        for _ in range(asked.rounds):
            for name, policy in policies.items():
                for what, function in (("score", score), ("update", update)):
                    seconds = cpu_seconds(function, policy, work)
                    times.setdefault((name, what), []).append(seconds)
        print(f"{path}, CPU seconds, median of {asked.rounds}; torch {torch.__version__}")
        for name, policy in policies.items():
            gap, outside = noise(policy, work)
            medians = [statistics.median(times[name, what]) for what in ("score", "update")]
            print(
                f"{name:9} first pass {first[name]:.1f} s  score {medians[0]:.3f}  "
                f"update {medians[1]:.3f}  max |log r| {gap:.1e}  outside {100 * outside:.2f} %"
            )


if __name__ == "__main__":
    main()
