"""The rollout in flight: scored, partly trained on, and part of every checkpoint.

Resuming in the middle of a rollout's updates is exact only if the old policy's log-probs and
entropies come back as they were: the weights that made them are gone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erclip.batches import TokenBatch, deal, empty_batch, make_batch, mini_batches
from erclip.config import Config
from erclip.distributed import World
from erclip.errors import UserError
from erclip.packing import micro_batches
from erclip.policy import Policy, Scores
from erclip.records import Grade, Group, Prompt, Response, Sample
from erclip.seeds import derive_seed
from erclip.updates import Lots, ScoredBatch, score_old

GROUPS = "rollout.jsonl"
SCORES = "rollout.safetensors"

Old = dict[int, tuple[Tensor, Tensor]]
"""Number of a response among those sampled → the old policy's log-probs and entropies."""


@dataclass
class Flight:
    """One rollout on its way through its updates.

    `minis` are the mini-batches as numbers of groups in `sampled`; `scored` is this process's part
    of each; `order` says which mini-batch each update takes, `done` how many updates are behind.
    """

    number: int
    first_prompt: int
    sampled: list[Group]
    minis: list[list[int]]
    order: list[int]
    scored: list[list[ScoredBatch]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    done: int = 0

    @property
    def finished(self) -> bool:
        """Whether every update has been made (at once, if no group was kept)."""
        return self.done == len(self.order)

    @property
    def samples(self) -> list[Sample]:
        """Everything that was sampled, in the order in which responses are numbered."""
        return [sample for group in self.sampled for sample in group.samples]

    def lots(self, seed: int) -> Lots:
        """A uniform number for every token that depends on its response and place alone.

        However responses are cut into micro-batches, packed or dealt to processes, a rule that
        draws by lot draws the same tokens.
        """
        numbers = {id(sample): number for number, sample in enumerate(self.samples)}

        def draw(batch: TokenBatch) -> Tensor:
            lots = torch.zeros(batch.mask.shape)
            for row, sample in enumerate(batch.samples):
                if id(sample) in numbers:
                    length = len(sample.response.token_ids)
                    own = derive_seed(seed, numbers[id(sample)])
                    generator = torch.Generator().manual_seed(own)
                    lots[row, :length] = torch.rand(length, generator=generator)
            return lots.to(batch.mask.device)

        return draw

    def mini_samples(self, mini: int) -> list[Sample]:
        """One mini-batch's samples, those of all processes."""
        return [sample for i in self.minis[mini] for sample in self.sampled[i].samples]


def plan_updates(
    sampled: Sequence[Group], kept: Sequence[Group], config: Config, seed: int
) -> tuple[list[list[int]], list[int]]:
    """Mini-batches as numbers of groups, and their order over all epochs."""
    places = {id(group): i for i, group in enumerate(sampled)}
    minis = mini_batches(kept, config.trainer.updates_per_rollout, random.Random(seed))
    order: list[int] = []
    rng = random.Random(seed + 1)
    for epoch in range(config.trainer.epochs):
        turn = list(range(len(minis)))
        if epoch:
            rng.shuffle(turn)
        order += turn
    return [[places[id(group)] for group in mini] for mini in minis], order


def own_batches(
    samples: Sequence[Sample], policy: Policy, config: Config, world: World
) -> list[TokenBatch]:
    """This process's micro-batches of a mini-batch.

    Every process gets as many as the one with the most: sharded layers work in step.
    """
    where = partial(empty_batch, pad_id=policy.pad_id, device=policy.device)
    make = partial(
        make_batch,
        pad_id=policy.pad_id,
        device=policy.device,
        mask_truncated=config.loss.mask_truncated,
    )
    shares, budget = deal(samples, world.size), config.trainer.token_budget
    splits = [micro_batches(policy.rows(share, budget), budget) for share in shares]
    own = splits[world.rank]
    return [make(micro) for micro in own] + [
        where() for _ in range(max(map(len, splits)) - len(own))
    ]


def score(
    samples: Sequence[Sample], policy: Policy, config: Config, world: World
) -> list[ScoredBatch]:
    """This process's part of a mini-batch, scored with the policy as it now is."""
    return [score_old(policy, batch) for batch in own_batches(samples, policy, config, world)]


def old_scores(flight: Flight) -> Old:
    """What has to be kept of this process's batches, on the CPU."""
    numbers = {id(sample): number for number, sample in enumerate(flight.samples)}
    found: Old = {}
    for scored in (scored for mini in flight.scored for scored in mini):
        logprobs, entropies = scored.old.logprobs.cpu(), scored.old.entropies.cpu()
        for row, sample in enumerate(scored.batch.samples):
            if id(sample) in numbers:  # an empty batch's is not among them
                span = slice(len(sample.response.token_ids))
                found[numbers[id(sample)]] = (logprobs[row, span], entropies[row, span])
    return found


def save_flight(flight: Flight, scores: Iterable[Old], folder: Path) -> dict[str, Any]:
    """Write the samples and the old scores of all processes; what is left goes into state.json."""
    old = {number: score for part in scores for number, score in part.items()}
    with (folder / GROUPS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_group_line(group)) + "\n" for group in flight.sampled)
    empty = [torch.zeros(0)]
    save_file(
        {
            "responses": torch.tensor(list(old), dtype=torch.long),
            "logprobs": torch.cat([score[0] for score in old.values()] or empty),
            "entropies": torch.cat([score[1] for score in old.values()] or empty),
        },
        folder / SCORES,
    )
    names = ("number", "first_prompt", "minis", "order", "metrics", "done")
    return {name: getattr(flight, name) for name in names}


def load_flight(
    state: dict[str, Any],
    folder: Path,
    prompts: Sequence[Prompt],
    policy: Policy,
    config: Config,
    world: World,
) -> Flight:
    """Put a flight back together; `prompts` are those that it sampled."""
    lines = [json.loads(line) for line in (folder / GROUPS).read_text("utf-8").splitlines()]
    sampled = [_group(line, prompt) for line, prompt in zip(lines, prompts, strict=True)]
    flight = Flight(sampled=sampled, **state)
    old = _read_scores(folder, flight.samples)
    numbers = {id(sample): number for number, sample in enumerate(flight.samples)}
    for mini in range(len(flight.minis)):
        batches = own_batches(flight.mini_samples(mini), policy, config, world)
        flight.scored.append([_with_scores(batch, old, numbers) for batch in batches])
    return flight


def _with_scores(batch: TokenBatch, old: Old, numbers: dict[int, int]) -> ScoredBatch:
    logprobs, entropies = torch.zeros(batch.mask.shape), torch.zeros(batch.mask.shape)
    for row, sample in enumerate(batch.samples):
        if id(sample) in numbers:
            span = slice(len(sample.response.token_ids))
            logprobs[row, span], entropies[row, span] = old[numbers[id(sample)]]
    device = batch.mask.device
    return ScoredBatch(batch, Scores(logprobs.to(device), entropies.to(device), None))


def _read_scores(folder: Path, samples: Sequence[Sample]) -> Old:
    tensors = load_file(folder / SCORES)
    numbers = tensors["responses"].tolist()
    lengths = [len(samples[number].response.token_ids) for number in numbers]
    parts = (tensors[name].split(lengths) for name in ("logprobs", "entropies"))
    return dict(zip(numbers, zip(*parts, strict=True), strict=True)) if numbers else {}


def group_lines(samples: Iterable[Sample]) -> list[str]:
    """Samples as JSON lines with everything that a TokenBatch is made of."""
    return [json.dumps(_group_line(Group((sample,)))) + "\n" for sample in samples]


def _group_line(group: Group) -> dict[str, Any]:
    first = group.samples[0].response
    return {
        "prompt_id": first.prompt.id,
        "prompt_ids": first.prompt_ids,
        "samples": [
            {
                "token_ids": s.response.token_ids,
                "text": s.response.text,
                "truncated": s.response.truncated,
                "logprobs": s.response.logprobs,
                "grade": [s.grade.correct, s.grade.answer, s.grade.reason],
                "reward": s.reward,
                "advantage": s.advantage,
            }
            for s in group.samples
        ],
    }


def _group(line: dict[str, Any], prompt: Prompt) -> Group:
    if line["prompt_id"] != prompt.id:
        raise UserError(
            f"The training prompts have changed since the checkpoint: {prompt.id} stands where "
            f"{line['prompt_id']} was; put the data back or start a new run"
        )
    return Group(
        tuple(
            Sample(
                Response(
                    prompt,
                    tuple(line["prompt_ids"]),
                    tuple(s["token_ids"]),
                    s["text"],
                    s["truncated"],
                    tuple(s["logprobs"]),
                ),
                Grade(*s["grade"]),
                s["reward"],
                s["advantage"],
            )
            for s in line["samples"]
        )
    )
