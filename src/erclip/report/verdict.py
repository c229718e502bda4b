"""`Run` → verdicts: short sentences on what happened, each with its number and a remedy.

A verdict says "no difference shown" where the interval holds zero. The limits below are rules of
thumb, each named in its sentence; they decide only how loudly a number is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from erclip.runs import names, series
from erclip.runs.noise import NOISE_REMEDY, NOISE_SHARE
from erclip.runs.read import Run

Status = Literal["good", "none", "warning"]

COLLAPSE, EXPLOSION = 0.2, 2.5  # last entropy over first
WAITING = 0.1  # of the time: below it, sampler and trainer keep step
SPIKE = 10.0  # times the median gradient norm


@dataclass(frozen=True)
class Verdict:
    """What was found, the number it rests on, and what to do about it (empty: nothing)."""

    name: str
    status: Status
    sentence: str
    value: float
    remedy: str = ""
    low: float | None = None
    high: float | None = None


def verdicts(run: Run) -> list[Verdict]:
    """Every verdict that this run's numbers allow, accuracy first."""
    return [*_accuracy(run), *(v for check in CHECKS if (v := check(run)) is not None)]


def as_json(found: Sequence[Verdict]) -> str:
    """The same for machines."""
    return json.dumps([asdict(verdict) for verdict in found], indent=2) + "\n"


def _accuracy(run: Run) -> Iterator[Verdict]:
    """First against last evaluation. Both asked the same problems, so their errors partly cancel:
    adding them up in squares, as for different problems, errs on the careful side.
    """
    for (held_out, k), points in series.evaluations(run).items():
        first, last = points[0], points[-1]
        if first is last:
            continue
        name, gain = f"accuracy on {held_out}", last.value - first.value
        halves = [half for point in (first, last) if (half := _half_width(point)) is not None]
        ends = f"avg@{k} from {first.value:.3f} to {last.value:.3f}"
        if len(halves) < 2:
            yield Verdict(name, "none", f"{ends}; no interval was recorded", gain)
            continue
        half = math.hypot(*halves)
        low, high = gain - half, gain + half
        numbers = f"{ends}: {_signed(gain)}, 95 % interval {_signed(low)} to {_signed(high)}"
        if low > 0:
            yield Verdict(name, "good", f"rose, {numbers}", gain, "", low, high)
        elif high < 0:
            remedy = "lower trainer.learning_rate or trainer.updates_per_rollout"
            yield Verdict(name, "warning", f"fell, {numbers}", gain, remedy, low, high)
        else:
            remedy = "more held-out problems or responses narrow it: eval.prompts, eval.responses"
            yield Verdict(name, "none", f"no difference shown, {numbers}", gain, remedy, low, high)


def _half_width(point: series.Evaluation) -> float | None:
    """Half of a 95 % interval; the longer half, as one end may be cut off at 0 or 1."""
    if point.low is None or point.high is None:
        return None
    return max(point.value - point.low, point.high - point.value)


def _entropy(run: Run) -> Verdict | None:
    first, last = series.ends(series.by_rollout(run, names.ENTROPY).y)
    if not first > 0:
        return None
    value = last / first
    numbers = f"{first:.3g} to {last:.3g} nats/token, {value:.2f} times the start"
    if value < COLLAPSE:
        remedy = "raise the clip's high side, use GPPO or ERC, or lower trainer.learning_rate"
        return Verdict("entropy", "warning", f"collapsed, {numbers} (< {COLLAPSE})", value, remedy)
    if value > EXPLOSION:
        remedy = "lower trainer.learning_rate, lower the clip's high side, or use ERC"
        return Verdict("entropy", "warning", f"exploded, {numbers} (> {EXPLOSION})", value, remedy)
    return Verdict("entropy", "good", f"neither collapsed nor exploded, {numbers}", value)


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
        sentence = f"{spikes} of {len(norms)} updates over {SPIKE:g} times the median, {numbers}"
        sentence += f"; {skipped} updates skipped as not finite" if skipped else ""
        remedy = "lower trainer.learning_rate or trainer.updates_per_rollout, or use ERC"
        return Verdict("gradient spikes", "warning", sentence, value, remedy)
    return Verdict("gradient spikes", "good", f"none, {numbers}", value)


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
    numbers = (
        f"{100 * noise:.2f} % of tokens where the true ratio is 1, against"
        f" {100 * clipped:.2f} % in all: {'all of it' if value == 1 else f'a share of {value:.2f}'}"
    )
    if value > NOISE_SHARE:
        sentence = f"ERC clips noise, {numbers} (limit {NOISE_SHARE})"
        return Verdict("clipping noise", "warning", sentence, value, NOISE_REMEDY)
    if not len(floors[1]) and run.setting("model", "dtype") in ("bfloat16", "float16"):
        sentence = f"not measured beyond equal weights, {numbers}; 16 bits round anew every update"
        remedy = "measure it with `erclip noise-floor`, layout update"
        return Verdict("clipping noise", "none", sentence, value, remedy)
    return Verdict("clipping noise", "good", f"little, {numbers}", value)


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
        return Verdict("bottleneck", "good", f"none, {numbers}", value)
    slow, remedy = "updates", "fewer updates, or more threads for them: rollout.overlap.threads"
    if trainer > sampler:
        slow, remedy = "sampling", "rollout.overlap: more threads, or a device of its own; vLLM"
    return Verdict("bottleneck", "none", f"{slow}, {numbers}", value, remedy)


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
    return Verdict("bottleneck", "none", f"{slow}, {numbers}", value, remedy)


@dataclass(frozen=True)
class Limit:
    """A number that must not be too large, in the words of its verdict."""

    name: str
    measure: Callable[[Run], float]  # NaN where it was not recorded
    limit: float
    show: Callable[[float], str]
    words: str  # around the number
    fine: str
    beyond: str
    remedy: str

    def __call__(self, run: Run) -> Verdict | None:
        """The verdict on one run."""
        value = self.measure(run)
        if math.isnan(value):
            return None
        numbers = self.words.format(self.show(value))
        if value > self.limit:
            sentence = f"{self.beyond}, {numbers} (> {self.show(self.limit)})"
            return Verdict(self.name, "warning", sentence, value, self.remedy)
        return Verdict(self.name, "good", f"{self.fine}, {numbers}", value)


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
        words="KL(old‖new) {} nats/token at a rollout's last update (median)",
        fine="fresh",
        beyond="stale",
        remedy="lower trainer.updates_per_rollout, trainer.epochs or trainer.learning_rate",
    ),
    Limit(
        name="truncation",
        measure=lambda run: series.ends(series.by_rollout(run, names.TRUNCATED).y)[1],
        limit=0.05,
        show=lambda value: f"{100 * value:.3g} %",
        words="{} of responses cut off at the end of the run",
        fine="rare",
        beyond="frequent",
        remedy="raise sampler.max_tokens, set reward.overlong, or loss.mask_truncated",
    ),
    Limit(
        name="dead groups",
        measure=lambda run: 1 - series.mean(series.by_rollout(run, names.GROUPS_KEPT).y),
        limit=0.5,
        show=lambda value: f"{100 * value:.3g} %",
        words="{} of groups taught nothing: equal rewards, or all right, or all wrong",
        fine="few enough",
        beyond="many",
        remedy="take easier or harder problems, more rollout.responses, or "
        'rollout.dynamic_sampling = "refill"',
    ),
    Limit(
        name="sampler and trainer",
        measure=_mismatch,
        limit=0.02,
        show=lambda value: f"{value:.2g}",
        words="log-probs differ by {} nats per token (median over rollouts)",
        fine="agree",
        beyond="disagree",
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


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
