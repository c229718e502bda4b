"""The noise floor: the same tokens, the same weights, scored twice; what leaves the band is noise.

At equal weights ρ = r = 1 for every token, so every clip is a false one. Two layouts of a batch,
or the sampler and the trainer, sum the same numbers in another order, and 16-bit weights and
activations make that visible. `update` asks what training asks, with one layout throughout: the
weights are nudged, and the same two sets of weights in a higher precision say what was true.

Letters: N tokens, D hidden size.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.config import Config, DataConfig, ModelConfig
from erclip.diagnostics.layouts import LAYOUTS, right_padded
from erclip.diagnostics.scoring import HEADS, Scored, clips, score
from erclip.errors import UserError
from erclip.losses import entropy_ratio
from erclip.records import Response
from erclip.seeds import prompt_seeds
from erclip.tasks import load_task
from erclip.training.policy import Policy, load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler

NUDGE = 1e-3  # relative change of the weights by `update`, as a standard deviation
SUPPORTED_GAP = 0.05  # nats in float32: a layout that is off by more is not supported by the model
_TRUTH = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}


@dataclass(frozen=True)
class Plan:
    """What to measure: tokens to sample, and the precisions and layouts to score them in.

    A head of dtype "float32" is this package's op; "model" rounds the logits to the model's dtype
    first, as `model(...).logits.float()` does.
    """

    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    heads: tuple[str, ...] = HEADS
    layouts: tuple[str, ...] = (*LAYOUTS, "update")
    prompts: int = 8
    responses: int = 2
    max_tokens: int = 64
    rows: int = 8
    band: tuple[float, float] = (0.05, 0.05)
    clip: tuple[float, float] = (0.2, 0.28)


@dataclass(frozen=True)
class Floor:
    """One pair of passes, and the tokens it clips falsely: by the band, and by the clip range.

    `true_erc`, `true_ppo`: shares that a higher precision clips, 0 at equal weights.
    """

    dtype: str
    head: str
    layout: str
    old: Scored
    new: Scored
    erc: Bool[Tensor, " N"]
    ppo: Bool[Tensor, " N"]
    true_erc: float = 0.0
    true_ppo: float = 0.0

    @property
    def rho(self) -> Float[Tensor, " N"]:
        """The entropy ratio of every token."""
        return entropy_ratio(self.new.entropies, self.old.entropies)

    @property
    def logprob_gap(self) -> float:
        """Mean |Δ log π| in nats."""
        return float((self.new.logprobs - self.old.logprobs).abs().mean())


class Measured(NamedTuple):
    """All pairs, sentences on what could not be measured, and the tokens of each response."""

    floors: list[Floor]
    notes: list[str]
    lengths: list[int]


def measure(
    path: str, data: DataConfig, plan: Plan, log: Callable[[str], None] = lambda _: None
) -> Measured:
    """Sample responses from the model in the first dtype, then score them in every way asked for.

    Raises `UserError` for names that are none, and for whatever loading a model raises.
    """
    _check(plan)
    responses = sample(path, data, plan)
    lengths = [len(response.token_ids) for response in responses]
    log(f"{sum(lengths):,} tokens sampled")
    floors: list[Floor] = []
    notes: list[str] = []
    for dtype in plan.dtypes:
        policy = _load(path, dtype)
        hidden = _hidden_states(policy, responses, plan, notes, log)
        for head in _heads(plan, dtype):
            old = score(policy, hidden["first"], responses, head)
            for layout in plan.layouts:
                if layout in hidden and layout != "update":
                    new = score(policy, hidden[layout], responses, head)
                    floors.append(
                        Floor(dtype, head, layout, old, new, *clips(old, new, plan.band, plan.clip))
                    )
        if "update" in plan.layouts:
            floors += _after_an_update(path, policy, dtype, responses, plan, hidden["first"])
            log(f"{dtype}: update")
        del policy, hidden
        gc.collect()
    return Measured(floors, notes, lengths)


@torch.no_grad()
def sample(path: str, data: DataConfig, plan: Plan) -> list[Response]:
    """Responses at temperature 1, from the model in the first dtype."""
    policy = _load(path, plan.dtypes[0])
    prompts = list(load_task(**data.model_dump()).train[: plan.prompts])
    sampler = TransformersSampler(policy.model, policy.tokenizer)
    limit = Config().sampler.max_prompt_tokens
    settings = SamplingSettings(plan.responses, plan.max_tokens, max_prompt_tokens=limit)
    groups = sampler.sample(prompts, settings, prompt_seeds(len(prompts), 0))
    return [response for group in groups for response in group]


@torch.no_grad()
def _hidden_states(
    policy: Policy,
    responses: Sequence[Response],
    plan: Plan,
    notes: list[str],
    log: Callable[[str], None],
) -> dict[str, Tensor]:
    """Hidden states of every layout that the model supports; "first" is the trainer's pass."""
    dtype = str(policy.model.dtype).removeprefix("torch.")
    states = {"first": right_padded(policy.model, responses, plan.rows)}
    for name in plan.layouts:
        if name not in LAYOUTS:
            continue
        states[name] = LAYOUTS[name](policy.model, responses, plan.rows)
        log(f"{dtype}: {name}")
        if name == "packing":
            old, new = (score(policy, states[n], responses, "float32") for n in ("first", name))
            gap = (new.logprobs - old.logprobs).abs().max().item()
            limit = SUPPORTED_GAP if dtype == "float32" else 20 * SUPPORTED_GAP
            if not gap <= limit:
                del states[name]
                notes.append(
                    f"Packing is left out in {dtype}: packed sequences see each other in this model"
                    f" (log-probs differ by {gap:.2g} nats)."
                )
    return states


@torch.no_grad()
def _after_an_update(
    path: str,
    policy: Policy,
    dtype: str,
    responses: Sequence[Response],
    plan: Plan,
    first: Tensor,
) -> list[Floor]:
    """Old and nudged weights in one layout; false is what a higher precision does not clip."""
    truth = _load(path, dtype)  # the same rounded weights, then widened
    truth.model.to(getattr(torch, _TRUTH[dtype]))
    heads = _heads(plan, dtype)
    old = {head: score(policy, first, responses, head) for head in heads}
    true_old = _score_first(truth, responses, plan)
    generator = torch.Generator().manual_seed(0)
    parameters = zip(policy.model.parameters(), truth.model.parameters(), strict=True)
    for parameter, wide in parameters:
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.copy_(parameter.float() * (1 + NUDGE * noise))
        wide.copy_(parameter)
    true_new = _score_first(truth, responses, plan)
    true_erc, true_ppo = clips(true_old, true_new, plan.band, plan.clip)
    hidden = right_padded(policy.model, responses, plan.rows)
    floors = []
    for head in heads:
        new = score(policy, hidden, responses, head)
        erc, ppo = clips(old[head], new, plan.band, plan.clip)
        shares = (float(flags.double().mean()) for flags in (true_erc, true_ppo))
        false = (erc & ~true_erc, ppo & ~true_ppo)
        floors.append(Floor(dtype, head, "update", old[head], new, *false, *shares))
    return floors


def _score_first(policy: Policy, responses: Sequence[Response], plan: Plan) -> Scored:
    hidden = right_padded(policy.model, responses, plan.rows)
    found = score(policy, hidden, responses, "float32")
    return Scored(found.logprobs.float(), found.entropies.float())


def _heads(plan: Plan, dtype: str) -> tuple[str, ...]:
    """In float32 both heads have the same precision: one of them is enough."""
    return plan.heads[:1] if dtype == "float32" else plan.heads


def _load(path: str, dtype: str) -> Policy:
    return load_policy(ModelConfig(path=path, dtype=dtype))  # ty: ignore[invalid-argument-type]


def _check(plan: Plan) -> None:
    for option, values, known in (
        ("--dtype", plan.dtypes, tuple(_TRUTH)),
        ("--head-dtype", plan.heads, HEADS),
        ("--layouts", plan.layouts, (*LAYOUTS, "update")),
    ):
        wrong = [value for value in values if value not in known]
        if wrong or not values:
            got = repr(wrong[0]) if wrong else "nothing"
            raise UserError(f"{option} takes {', '.join(known)}, not {got}")
