"""`Run` → verdicts: short sentences on what happened, each with its number and a remedy.

A verdict says "no difference shown" where the interval holds zero. The limits below are rules of
thumb, each named in its sentence; they decide only how loudly a number is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from erclip.report.gains import Gain, gains
from erclip.runs import names, series
from erclip.runs.noise import NOISE_REMEDY, NOISE_SHARE
from erclip.runs.read import Run

Status = Literal["good", "none", "warning"]

COLLAPSE, EXPLOSION = 0.2, 2.5  # last entropy over first
WAITING = 0.1  # of the time: below it, sampler and trainer keep step
SPIKE = 10.0  # times the median gradient norm


@dataclass(frozen=True)
class Verdict:
    """What was found in plain words, the numbers it rests on, and a remedy (empty: none needed)."""

    name: str
    status: Status
    words: str
    numbers: str
    value: float
    remedy: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def sentence(self) -> str:
        """Words and numbers."""
        return f"{self.words[0].upper()}{self.words[1:]}: {self.numbers}"


def verdicts(run: Run) -> list[Verdict]:
    """Every verdict that this run's numbers allow, accuracy first."""
    return [*map(_accuracy, gains(run)), *(v for c in CHECKS if (v := c(run)) is not None)]


def as_json(found: Sequence[Verdict]) -> str:
    """The same for machines."""
    rows = [{"sentence": verdict.sentence, **asdict(verdict)} for verdict in found]
    return json.dumps(rows, indent=2) + "\n"


def _accuracy(gain: Gain) -> Verdict:
    """First against last evaluation."""
    name, change = f"accuracy on {gain.held_out}", gain.change
    numbers = f"avg@{gain.k} from {gain.first:.3f} to {gain.last:.3f}, {gain.points}"
    if not gain.known:
        return Verdict(name, "none", "no interval was recorded", numbers, change.mean)
    ends = (change.low, change.high)
    if change.outcome == "gain":
        return Verdict(name, "good", "accuracy rose", numbers, change.mean, "", *ends)
    if change.outcome == "loss":
        remedy = "lower trainer.learning_rate or trainer.updates_per_rollout"
        return Verdict(name, "warning", "accuracy fell", numbers, change.mean, remedy, *ends)
    remedy = "more held-out problems or responses narrow it: eval.prompts, eval.responses"
    return Verdict(name, "none", "no difference shown", numbers, change.mean, remedy, *ends)


def _entropy(run: Run) -> Verdict | None:
    first, last = series.ends(series.by_rollout(run, names.ENTROPY).y)
    if not first > 0:
        return None
    value = last / first
    numbers = f"{first:.3g} to {last:.3g} nats/token, {value:.2f} times the start"
    if value < COLLAPSE:
        numbers += f" (< {COLLAPSE})"
        remedy = "raise the clip's high side, use GPPO or ERC, or lower trainer.learning_rate"
        return Verdict("entropy", "warning", "entropy collapsed", numbers, value, remedy)
    if value > EXPLOSION:
        numbers += f" (> {EXPLOSION})"
        remedy = "lower trainer.learning_rate, lower the clip's high side, or use ERC"
        return Verdict("entropy", "warning", "entropy exploded", numbers, value, remedy)
    return Verdict("entropy", "good", "entropy neither collapsed nor exploded", numbers, value)


def _gradients(run: Run) -> Verdict | None:
    norms = series.finite(series.column(run.updates, names.GRAD_NORM))
    norms = norms[norms > 0]
    if not len(norms):
        return None
    skipped = int(series.total(run.updates, names.GRAD_SKIPPED) or 0)
    middle = float(np.median(norms))
    spikes, value = int((norms > SPIKE * middle).sum()), float(norms.max()) / middle
    numbers = f"largest norm {norms.max():.3g}, {value:.1f} times the median"
    if spikes or skipped:
        numbers = f"{spikes} of {len(norms)} updates over {SPIKE:g} times the median, {numbers}"
        numbers += f"; {skipped} updates skipped as not finite" if skipped else ""
        words = "gradients spiked" if spikes else "gradients were not finite"
        remedy = "lower trainer.learning_rate or trainer.updates_per_rollout, or use ERC"
        return Verdict("gradient spikes", "warning", words, numbers, value, remedy)
    return Verdict("gradient spikes", "good", "no gradient spiked", numbers, value)


def _noise(run: Run) -> Verdict | None:
    """What ERC clips where the true ρ is 1, as a share of all that it clips."""
    floors = [
        series.finite(series.column(run.rollouts, name)) for name in (names.NOISE, names.ROUNDING)
    ]
    clipped = series.share(run, names.ERC[0])
    if not any(map(len, floors)) or not clipped > 0:
        return None
    noise = max(float(floor.mean()) for floor in floors if len(floor))
    value = min(noise / clipped, 1.0)
    part = "all" if value == 1 else f"{100 * value:.0f} %" if value >= 0.005 else "none"
    words = f"ERC clips {100 * clipped:.2g} % of tokens, {part} of it noise"
    numbers = f"{100 * noise:.2f} % are clipped where the true ratio is 1"
    if value > NOISE_SHARE:
        numbers += f" (limit: {100 * NOISE_SHARE:.0f} % of what is clipped)"
        return Verdict("clipping noise", "warning", words, numbers, value, NOISE_REMEDY)
    if not len(floors[1]) and run.setting("model", "dtype") in ("bfloat16", "float16"):
        words = f"ERC clips {100 * clipped:.2g} % of tokens, its noise was not measured"
        numbers += " at equal weights; 16 bits round anew at every update"
        remedy = "measure it with `erclip noise-floor`, layout update"
        return Verdict("clipping noise", "none", words, numbers, value, remedy)
    return Verdict("clipping noise", "good", words, numbers, value)


def _bottleneck(run: Run) -> Verdict | None:
    """Who keeps the other waiting; in turns, what most of a rollout's time goes to."""
    trainer, sampler = (series.mean(series.by_rollout(run, name).y) for name in names.WAITS)
    if not math.isfinite(trainer):
        return _larger_turn(run)
    value = max(trainer, sampler)
    numbers = (
        f"the trainer waits {100 * trainer:.0f} % of its time, the sampler {100 * sampler:.0f} %"
    )
    if value < WAITING:
        return Verdict("bottleneck", "good", "sampler and trainer keep step", numbers, value)
    words = "updates keep the sampler waiting"
    remedy = "fewer updates, or more threads for them: rollout.overlap.threads"
    if trainer > sampler:
        words = "sampling keeps the trainer waiting"
        remedy = "rollout.overlap: more threads, or a device of its own; vLLM"
    return Verdict("bottleneck", "none", words, numbers, value, remedy)


def _larger_turn(run: Run) -> Verdict | None:
    times = (names.TIME_ROLLOUT, *names.TIME_PARTS.values())
    whole, *parts = (series.mean(series.by_rollout(run, name).y) for name in times)
    if not whole > 0 or not all(map(math.isfinite, parts)):
        return None
    sampling, training = sum(parts[:2]) / whole, sum(parts[2:]) / whole
    value, slow = max((sampling, "sampling"), (training, "updates"))
    numbers = (
        f"sampling takes {100 * sampling:.0f} % of a rollout, scoring and updates "
        f"{100 * training:.0f} %"
    )
    remedy = f"rollout.overlap, on a device for each at best {1 / value:.1f} times as fast; " + (
        "sampler.kind = vllm" if slow == "sampling" else "fewer updates per rollout"
    )
    takes = "sampling takes" if slow == "sampling" else "updates take"
    return Verdict("bottleneck", "none", f"{takes} most of the time", numbers, value, remedy)


@dataclass(frozen=True)
class Limit:
    """A number that must not be too large, in the words of its verdict."""

    name: str
    measure: Callable[[Run], float]  # NaN where it was not recorded
    limit: float
    show: Callable[[float], str]
    around: str  # the number
    fine: str
    beyond: str
    remedy: str

    def __call__(self, run: Run) -> Verdict | None:
        """The verdict on one run."""
        value = self.measure(run)
        if math.isnan(value):
            return None
        numbers = self.around.format(self.show(value))
        if value > self.limit:
            numbers += f" (> {self.show(self.limit)})"
            return Verdict(self.name, "warning", self.beyond, numbers, value, self.remedy)
        return Verdict(self.name, "good", self.fine, numbers, value)


def _staleness(run: Run) -> float:
    numbers = (series.column(run.updates, name).tolist() for name in ("rollout", names.KL_OLD))
    last = dict(zip(*numbers, strict=True))
    return series.median(np.array(list(last.values())))


def _mismatch(run: Run) -> float:
    """Where the weights that scored are those that sampled; a late rollout differs for its age."""
    late = series.column(run.rollouts, names.STALENESS[1]) > 0
    if run.setting("rollout", "old_policy") == "sampled":
        late[:] = False
    return series.median(series.by_rollout(run, names.LOGPROB_DIFF).y[~late])


LIMITS = (
    Limit(
        name="staleness",
        measure=_staleness,
        limit=0.05,
        show=lambda value: f"{value:.2g}",
        around="KL(old‖new) {} nats/token at a rollout's last update (median)",
        fine="rollouts stay fresh",
        beyond="rollouts go stale",
        remedy="lower trainer.updates_per_rollout, trainer.epochs or trainer.learning_rate",
    ),
    Limit(
        name="truncation",
        measure=lambda run: series.ends(series.by_rollout(run, names.TRUNCATED).y)[1],
        limit=0.05,
        show=lambda value: f"{100 * value:.3g} %",
        around="{} of them at the end of the run",
        fine="few responses are cut off",
        beyond="many responses are cut off",
        remedy="raise sampler.max_tokens, set reward.overlong, or loss.mask_truncated",
    ),
    Limit(
        name="dead groups",
        measure=lambda run: 1 - series.mean(series.by_rollout(run, names.GROUPS_KEPT).y),
        limit=0.5,
        show=lambda value: f"{100 * value:.3g} %",
        around="{} have equal rewards, or are all right or all wrong",
        fine="most groups teach",
        beyond="most groups teach nothing",
        remedy="take easier or harder problems, more rollout.responses, or "
        'rollout.dynamic_sampling = "refill"',
    ),
    Limit(
        name="sampler and trainer",
        measure=_mismatch,
        limit=0.02,
        show=lambda value: f"{value:.2g}",
        around="log-probs differ by {} nats per token (median over rollouts)",
        fine="sampler and trainer agree",
        beyond="sampler and trainer disagree",
        remedy="give sampler and trainer the same dtype and temperature",
    ),
)

CHECKS: tuple[Callable[[Run], Verdict | None], ...] = (
    _entropy,
    _gradients,
    _noise,
    *LIMITS,
    _bottleneck,
)
