"""What happened to single tokens during a run: the ledger, and tokens.jsonl for the report's view.

Both are fed from the tensors of the updates that are recorded; other updates pay nothing.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erclip.config import Config
from erclip.losses import LossOutput
from erclip.machine.distributed import World
from erclip.machine.files import append
from erclip.records import Sample
from erclip.runs.ledger import FOLDER, WEIGHT, check_pyarrow, write_update
from erclip.runs.metrics import CORE_RULES
from erclip.runs.run_dir import sample_line
from erclip.seeds import derive_seed
from erclip.training.pieces import Pieces
from erclip.training.policy import Scores
from erclip.training.scored_rollout import ScoredRollout
from erclip.training.updates import ScoredBatch, Watch

Line = dict[str, Any]


class Recorder:
    """Follows a run rollout by rollout.

    Every `ledger.every`-th update goes to the ledger. Of rollouts 1, 2, 4, 8, … and the last one,
    up to `trainer.saved_samples` responses go to tokens.jsonl with the old policy's log-probs and
    entropies, and with the new policy's and the rules that fired if the ledger has their update.
    """

    def __init__(self, config: Config, tokenizer: Any, run: Path, world: World | None = None):
        self.every = config.ledger.every
        if self.every:
            check_pyarrow()
        self._count, self._last = config.trainer.saved_samples, config.trainer.rollouts
        self._pieces = Pieces(tokenizer)
        self._run, self._world = run, world or World()
        self._rollout = 0
        self.lines: list[Line] = []

    def begin(self, rollout: ScoredRollout) -> None:
        """Take over a rollout that has been scored and is about to be trained on."""
        self.resume(rollout, [])
        if self._shown:
            scored = [scored for mini in rollout.scored for scored in mini]
            self.lines = self._choose([(s, None, None) for s in scored])

    def resume(self, rollout: ScoredRollout, lines: Sequence[Line]) -> None:
        """Take over a rollout in the middle of its updates, with the lines chosen before."""
        self._rollout = rollout.number
        self.lines = list(lines)

    @contextmanager
    def update(self, update: int, update_in_rollout: int) -> Generator[Watch | None]:
        """Yield what the updater shall call for each micro-batch, None for most updates."""
        if not self.every or update % self.every:
            yield None
            return
        seen: list[tuple[ScoredBatch, Scores, LossOutput]] = []
        yield lambda scored, new, out: seen.append((scored, detached(new), out))
        places = {"update": update, "update_in_rollout": update_in_rollout}
        self._write_ledger(places, seen)
        if self._shown:
            self.lines = [{**line, **places} for line in self._choose(seen)]

    def end(self) -> None:
        """Write what the report will show of this rollout."""
        if self.lines and self._world.first:
            lines = "".join(json.dumps(line) + "\n" for line in self.lines)
            append(self._run / "tokens.jsonl", lines)
        self.lines = []

    @property
    def _shown(self) -> bool:
        n = self._rollout
        return self._count > 0 and (n & (n - 1) == 0 or n == self._last)

    def _write_ledger(
        self, places: dict[str, int], seen: Sequence[tuple[ScoredBatch, Scores, LossOutput]]
    ) -> None:
        parts = [part for own in self._world.to_first(self._columns, seen) for part in own]
        if not parts:
            return
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name, value in (*places.items(), ("rollout", self._rollout)):
            columns[name] = np.full(len(columns["response"]), value, dtype=np.int32)
        texts = {i: self._pieces.one(i) for i in np.unique(columns["token_id"]).tolist()}
        write_update(self._run / FOLDER, places["update"], columns, texts)

    def _columns(
        self, seen: Sequence[tuple[ScoredBatch, Scores, LossOutput]]
    ) -> list[dict[str, np.ndarray]]:
        """This process's micro-batches as the ledger's columns."""
        parts = []
        for scored, new, out in seen:
            if scored.batch.num_tokens:
                columns = token_columns(scored, new, out)
                numbers = [sample.number for sample in scored.batch.samples]
                columns["response"] = np.array(numbers, dtype=np.int32)[_row_numbers(scored)]
                parts.append(columns)
        return parts

    def _choose(
        self, seen: Sequence[tuple[ScoredBatch, Scores | None, LossOutput | None]]
    ) -> list[Line]:
        """Lines of one right, one wrong and one truncated response to each of some prompts.

        Which prompts depends on their ids alone, so that two runs show the same ones. Each process
        chooses among its own; the first one among what was chosen.
        """
        places = [
            (sample, row, *item)
            for item in seen
            for row, sample in enumerate(item[0].batch.samples)
            if sample.number >= 0
        ]
        heads = [
            {**sample_line(self._rollout, sample), "number": sample.number, "place": i}
            for i, (sample, *_) in enumerate(places)
        ]
        own = [self._line(head, *places[head.pop("place")]) for head in self._first_of(heads)]
        return self._first_of([line for part in self._world.to_first(lambda: own) for line in part])

    def _first_of(self, lines: Sequence[Line]) -> list[Line]:
        """One line per prompt and outcome, in an order drawn by lot, up to the count."""

        def lot(line: Line) -> tuple[int, int]:
            return derive_seed("tokens", self._rollout, line["prompt_id"]), line["number"]

        chosen: dict[tuple[str, str], Line] = {}
        for line in sorted(lines, key=lot):
            chosen.setdefault((line["prompt_id"], _outcome(line)), line)
        return list(chosen.values())[: self._count]

    def _line(
        self,
        head: Line,
        sample: Sample,
        row: int,
        scored: ScoredBatch,
        new: Scores | None,
        out: LossOutput | None,
    ) -> Line:
        tokens = sample.response.token_ids
        values = _token_values(row, len(tokens), scored, new, out)
        return {**head, "pieces": self._pieces.of(tokens), **values}


def token_columns(scored: ScoredBatch, new: Scores, out: LossOutput) -> dict[str, np.ndarray]:
    """The ledger's columns of one micro-batch: [N] tokens inside the mask, row by row."""
    batch, old = scored.batch, scored.old
    mask = batch.mask
    slopes = torch.zeros_like(new.entropies) if new.slopes is None else new.slopes
    advantages = batch.advantages[:, None].expand(mask.shape)
    measures = {
        "old_logprob": old.logprobs,
        "new_logprob": new.logprobs,
        "old_entropy": old.entropies,
        "new_entropy": new.entropies,
        "slope": slopes,
        "advantage": advantages,
        "sampler_logprob": batch.sampler_logprobs,
        **rule_flags(out),
        **{WEIGHT + name: weight for name, weight in out.weights.items()},
    }
    columns = {name: values[mask].cpu().numpy() for name, values in measures.items()}
    columns["position"] = mask.nonzero()[:, 1].int().cpu().numpy()
    columns["token_id"] = batch.targets.int().cpu().numpy()
    return columns


def rule_flags(out: LossOutput) -> dict[str, Tensor]:
    """What fired, by name: the oldest rules first, in every run, then those of this loss."""
    return {name: out.flags(name) for name in dict.fromkeys((*CORE_RULES, *out.clipped))}


def detached(scores: Scores) -> Scores:
    """The same numbers without the graph that would keep a micro-batch's activations alive."""
    return replace(scores, logprobs=scores.logprobs.detach(), top_logprobs=None)


def _row_numbers(scored: ScoredBatch) -> np.ndarray:
    """Which response of its micro-batch each token belongs to [N]."""
    lengths = scored.batch.mask.sum(1).cpu()
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths).numpy()


def _token_values(
    row: int, length: int, scored: ScoredBatch, new: Scores | None, out: LossOutput | None
) -> Line:
    """Per-token lists of one response; what was masked out of the loss has none."""
    if not scored.batch.mask[row].any():
        return {}
    scores = [("old", scored.old)] + ([("new", new)] if new is not None else [])
    values: Line = {}
    for age, score in scores:
        values[f"{age}_logprobs"] = _rounded(score.logprobs[row, :length])
        values[f"{age}_entropies"] = _rounded(score.entropies[row, :length])
    if out is not None:
        flags = rule_flags(out)
        fired = [flag[row, :length].long() << bit for bit, flag in enumerate(flags.values())]
        values["fired"] = torch.stack(fired).sum(0).tolist()
        if len(flags) > len(CORE_RULES):
            values["rules"] = list(flags)
    return values


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _outcome(line: Line) -> str:
    if line["truncated"]:
        return "truncated"
    return "right" if line["correct"] else "wrong"
