"""How far the policy is from where it began: KL(start‖policy) on tokens that never change.

KL(old‖new) starts from 0 at every rollout, and on-policy training has none of it however far it
goes. The tokens here are those of the first rollout's first responses, which the first policy drew
and scored anyway: a fixed set that costs one more scoring pass at an evaluation and no sampling.
With w = π/π_start the mean of w − 1 − log w is unbiased for tokens that π_start drew; a sampler
that is not the trainer's policy, or dynamic sampling, which leaves out groups without signal, makes
it a measure of distance on those tokens (at least 0, and 0 only where the two agree).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from erclip.config import Config
from erclip.machine.distributed import World
from erclip.machine.files import write_text
from erclip.records import Grade, Prompt, Response, Sample
from erclip.runs.metrics import Pool
from erclip.training.policy import Policy
from erclip.training.scored_rollout import own_batches
from erclip.training.updates import ScoredBatch

FILE = "start.jsonl"
RESPONSES = 64


class Drift:
    """The tokens of the start in a run's folder, and the distance from them.

    The file is written at the first rollout and read again by a resumed run; a run whose file is
    gone logs no distance.
    """

    def __init__(self, out: Path, policy: Policy, config: Config, world: World):
        self.path, self.policy, self.config, self.world = out / FILE, policy, config, world
        self._samples: list[Sample] = self.world.from_first(self._read)

    def begin(self, number: int, scored: Sequence[Sequence[ScoredBatch]]) -> None:
        """Keep the first rollout's first responses; a collective."""
        if number != 1:
            return
        batches = [batch for mini in scored for batch in mini]
        parts = self.world.gather(lambda: [line for own in batches for line in _lines(own)])
        lines = [line for part in parts for line in part][:RESPONSES]
        self._samples = [_sample(line) for line in lines]
        self.world.from_first(self._write, lines)

    def metrics(self, rollout: int) -> dict[str, float]:
        """`policy/kl_start` at an evaluation; 0 before training; a collective."""
        if rollout == 0:
            return {"policy/kl_start": 0.0}
        return {"policy/kl_start": self._kl()} if self._samples else {}

    @torch.no_grad()
    def _kl(self) -> float:
        pool = Pool()
        for batch in own_batches(self._samples, self.policy, self.config, self.world):
            start = batch.sampler_logprobs  # of `_sample`: the first policy's
            log_w = (self.policy.score(batch).logprobs - start).where(batch.mask, 0.0).double()
            pool.add({"kl": (log_w.exp() - 1 - log_w).sum()}, batch.num_tokens)
        return pool.means(self.world)["kl"]

    def _read(self) -> list[Sample]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [_sample(json.loads(line)) for line in lines]

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_text(self.path, text)


def _lines(scored: ScoredBatch) -> list[dict[str, Any]]:
    logprobs = scored.old.logprobs.cpu()
    return [
        {
            "prompt_ids": list(sample.response.prompt_ids),
            "token_ids": list(sample.response.token_ids),
            "logprobs": logprobs[row, : len(sample.response.token_ids)].tolist(),
        }
        for row, sample in enumerate(scored.batch.samples)
        if scored.batch.mask[row].any()
    ]


def _sample(line: dict[str, Any]) -> Sample:
    response = Response(
        Prompt("start", (), None),
        tuple(line["prompt_ids"]),
        tuple(line["token_ids"]),
        "",
        False,
        tuple(line["logprobs"]),
    )
    return Sample(response, Grade(False, None, "wrong"), 0.0, 0.0)
