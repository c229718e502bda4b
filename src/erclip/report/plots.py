"""Runs → pictures: one function per plot, each None where no run has the values.

Legend: R rollouts, P parts of a rollout's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from erclip.pages import canvas
from erclip.pages.canvas import MUTED, SERIES, Key, run_color
from erclip.pages.cards import Panel, Plot, last_rollout, per_update, run_keys, stacked
from erclip.pages.hover import Trace, number, trace
from erclip.report.clipping import clip_fractions, entropy_ratio
from erclip.runs import names, series
from erclip.runs.read import Run
from erclip.runs.series import Curve


def reward(runs: Sequence[Run]) -> Plot | None:
    """Reward and share of correct answers in training; one panel where they are one curve."""
    correct = Panel("share correct", ((names.ACCURACY, "share correct"),), percent=True)
    caption = "Mean over a rollout's responses, at the training temperature. Nothing is smoothed."
    line = series.straight_line(runs, names.ACCURACY, names.REWARD)
    if line is not None:
        slope, start = line
        caption += f" The reward is {_times(slope)}the share{_plus(start)}, so it has no panel."
        return stacked(runs, "Training reward", [correct], caption)
    own = Panel(names.axis_label("reward", names.REWARD), ((names.REWARD, "reward"),))
    return stacked(runs, "Training reward", [own, correct], caption)


def _times(slope: float) -> str:
    return "" if slope == 1 else f"{number(slope)} × "


def _plus(start: float) -> str:
    return f" {'+' if start > 0 else '−'} {number(abs(start))}" if start else ""


def held_out(runs: Sequence[Run]) -> Plot | None:
    """Accuracy on the held-out sets with its 95 % interval."""
    found = [series.evaluations(run) for run in runs]
    keys = sorted({key for evaluations in found for key in evaluations})
    if not keys:
        return None
    wide = len(keys) > 1
    with canvas.figure(len(keys), wide=wide) as (fig, axes):
        for ax, key in zip(axes, keys, strict=True):
            measured = [index for index, evaluations in enumerate(found) if key in evaluations]
            for place, index in enumerate(measured):
                aside = (place - (len(measured) - 1) / 2) / max(len(measured) - 1, 3)
                color = run_color(index)
                points = _draw_evaluations(ax, found[index][key], color, aside)
                own = runs[index].label if len(runs) > 1 else f"avg@{key[1]}"
                trace(ax, _as_trace(own, color, points))
            ax.set_title(canvas.short(key[0]), loc="left")
            ax.set_ylabel(f"avg@{key[1]}")
            canvas.percent_axis(ax)
            canvas.rollout_axis(ax, 0, last_rollout(runs), "rollouts trained")
        svg = canvas.to_svg(fig, "held-out accuracy")
    caption = (
        "Share of correct answers on problems that are not trained on; bars are the 95 % interval"
        " where the run recorded one. Rollout 0 is before training."
    )
    return Plot("Held-out accuracy", caption, svg, run_keys(runs), wide)


def _draw_evaluations(
    ax: Axes, points: Sequence[series.Evaluation], color: str, aside: float
) -> Sequence[series.Evaluation]:
    """Draw one set of one run, moved aside so that the bars of several runs don't meet."""
    points = _thinned(points)
    x = np.array([point.rollout for point in points], dtype=np.float64)
    x += aside * (0.036 * float(np.ptp(x)) or 0.3)
    y = np.array([point.value for point in points])
    canvas.draw(ax, Curve(x, y), color)
    for position, point in zip(x, points, strict=True):
        if point.low is not None and point.high is not None:
            ax.vlines(position, point.low, point.high, color=color, alpha=0.6, linewidth=1.4)
    return points


def _as_trace(label: str, color: str, points: Sequence[series.Evaluation]) -> Trace:
    """Values with their intervals, where they were recorded."""
    rows = [(p.rollout, p.value, p.low, p.high) for p in points]
    x, y, low, high = np.array(rows, dtype=np.float64).T
    return Trace(label, color, x, y, low, high)


def _thinned(points: Sequence[series.Evaluation]) -> Sequence[series.Evaluation]:
    """Return as many as have room, the best and the worst among them."""
    places = np.arange(len(points), dtype=np.float64)
    values = np.array([point.value for point in points])
    kept = series.thinned(Curve(places, values), EVALUATIONS).x
    return [points[int(place)] for place in kept]


def entropy(runs: Sequence[Run]) -> Plot | None:
    """Policy entropy, per rollout and per update."""
    caption = "Mean over tokens. Towards 0 the policy stops exploring."
    label = names.axis_label("entropy", names.ENTROPY)
    return per_update(runs, "Policy entropy", names.ENTROPY, label, caption, per_rollout=True)


def gradient_norm(runs: Sequence[Run]) -> Plot | None:
    """Gradient norm before clipping."""
    caption = "Before gradient clipping."
    label = names.axis_label("gradient norm", names.GRAD_NORM)
    return per_update(runs, "Gradient norm", names.GRAD_NORM, label, caption)


def kl(runs: Sequence[Run]) -> Plot | None:
    """KL divergence between the policy that sampled and the one in training."""
    caption = "How far the policy has moved from the one that sampled the rollout."
    return per_update(
        runs, "KL(old‖new)", names.KL_OLD, names.axis_label("KL", names.KL_OLD), caption
    )


def response_length(runs: Sequence[Run]) -> Plot | None:
    """Response length, and the shares that were cut off or gave no answer."""
    rows = [
        Panel(
            names.axis_label("length", names.RESPONSE_LENGTH),
            ((names.RESPONSE_LENGTH, "mean length"),),
            zero=True,
        ),
        Panel(
            "share",
            ((names.TRUNCATED, "truncated"), (names.NO_ANSWER, "no answer")),
            zero=True,
            percent=True,
        ),
    ]
    caption = (
        "Mean length of a rollout's responses, and the share cut off at the limit or without an"
        " answer that could be read."
    )
    return stacked(runs, "Response length", rows, caption)


def staleness(runs: Sequence[Run]) -> Plot | None:
    """How old rollouts are when they are trained on; of runs that sample ahead only."""
    mean, oldest = names.STALENESS
    rows = [
        Panel(names.axis_label("age", mean), ((mean, "mean"), (oldest, "oldest token")), zero=True),
        Panel("KL (nats)", ((names.STALE_KL, "KL"),), zero=True),
    ]
    caption = (
        "Updates between the weights that drew a token and the rollout's first update; and there,"
        " KL(sampler‖policy) per token."
    )
    return stacked(runs, "Staleness", rows, caption)


def sampler_beside(runs: Sequence[Run]) -> Plot | None:
    """What importance weights leave of late rollouts, and who waits for whom."""
    trainer, sampler = names.WAITS
    rows = [
        Panel("ESS / N", ((names.EFFECTIVE, "effective"),), percent=True),
        Panel("waiting", ((trainer, "trainer"), (sampler, "sampler")), zero=True, percent=True),
    ]
    caption = (
        "Effective sample size over N of the weights π/π_sampler at a rollout's first update. Where"
        " sampler and trainer overlap: the share of its time that each waits for the other."
    )
    return stacked(runs, "Sampler and trainer", rows, caption)


def time_split(runs: Sequence[Run]) -> Plot | None:
    """Seconds by what they were spent on: of each rollout, or of several runs' mean rollout."""
    shown = [run for run in runs if any(series.by_rollout(run, n).drawn for n in _TIMES)]
    if not shown:
        return None
    with canvas.figure() as (fig, (ax,)):
        if len(runs) == 1:
            _draw_times(ax, _seconds(shown[0]), _width(shown[0]))
        else:
            means = np.array([_seconds(run).mean(axis=1) for run in shown])
            _draw_mean_times(ax, means, [canvas.short(run.label, 24) for run in shown])
        svg = canvas.to_svg(fig, "time split per rollout")
    legend = [Key(part, color, "area") for part, color in zip(_PARTS, _PART_COLORS, strict=True)]
    mean = ", mean over a run's rollouts"
    if len(runs) == 1:
        width = _width(shown[0])
        mean = f", mean of {width} rollouts a bar" if width > 1 else ""
    caption = (
        f"Seconds per rollout{mean}; “other” is what it took beyond the four parts, waiting for a"
        " sampler that overlaps with the updates included."
    )
    return Plot("Time", caption, svg, tuple(legend))


EVALUATIONS = 400  # points with their intervals
BARS = 1000  # of one picture
_TIMES = (*names.TIME_PARTS.values(), names.TIME_ROLLOUT)
_PARTS = (*names.TIME_PARTS, "other")
_PART_COLORS = (*SERIES[: len(names.TIME_PARTS)], MUTED)


def _seconds(run: Run) -> Float[np.ndarray, "P R"]:
    """Return the seconds of each part in each rollout; a rollout without a record has 0.

    Of a long run a bar is the mean of `_width` rollouts.
    """
    rollout = series.column(run.rollouts, "rollout").astype(int)
    width = _width(run)
    bars = -(-int(rollout.max()) // width)
    place = np.clip((rollout - 1) // width, 0, None)
    seconds = np.array(
        [
            np.bincount(place, np.nan_to_num(series.column(run.rollouts, name)), bars) / width
            for name in _TIMES
        ]
    )
    if series.by_rollout(run, names.WAITS[0]).drawn:  # sampling went on beside the rest
        seconds[:2] = 0.0
    seconds[-1] = np.maximum(seconds[-1] - seconds[:-1].sum(axis=0), 0.0)
    return seconds


def _width(run: Run) -> int:
    """Return how many rollouts share a bar."""
    last = int(series.column(run.rollouts, "rollout").max())
    return -(-last // BARS)


def _draw_times(ax: Axes, seconds: Float[np.ndarray, "P R"], width: int) -> None:
    edges = np.arange(seconds.shape[1] + 1) * width + 0.5
    bottom = np.zeros(seconds.shape[1])
    middles = (edges[1:] + edges[:-1]) / 2
    for part, values, color in zip(_PARTS, seconds, _PART_COLORS, strict=True):
        trace(ax, Trace(part, color, *series.thinned(Curve(middles, values), canvas.HOVERED)))
        ax.stairs(bottom + values, edges, baseline=bottom, fill=True, color=color, linewidth=0)
        bottom = bottom + values
    ax.set_ylabel(names.axis_label("time per rollout", names.TIME_ROLLOUT))
    canvas.from_zero(ax)
    canvas.rollout_axis(ax, 1, seconds.shape[1] * width)


def _draw_mean_times(ax: Axes, means: Float[np.ndarray, "runs P"], labels: Sequence[str]) -> None:
    left = np.zeros(len(labels))
    y = np.arange(len(labels), dtype=np.float64)
    for part, values, color in zip(_PARTS, means.T, _PART_COLORS, strict=True):
        said = [f"{label}: {number(v)} s" for label, v in zip(labels, values, strict=True)]
        trace(ax, Trace(part, color, left + values / 2, y, names=said), "point")
        ax.barh(np.arange(len(labels)), values, left=left, height=0.6, color=color)
        left = left + values
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(names.axis_label("time per rollout", names.TIME_ROLLOUT))


PLOTS: tuple[tuple[str, Callable[[Sequence[Run]], Plot | None]], ...] = (
    ("held-out accuracy", held_out),
    ("training reward", reward),
    ("policy entropy", entropy),
    ("entropy ratio", entropy_ratio),
    ("clip fractions", clip_fractions),
    ("gradient norm", gradient_norm),
    ("KL(old‖new)", kl),
    ("staleness", staleness),
    ("sampler and trainer", sampler_beside),
    ("response length", response_length),
    ("time split", time_split),
)
AHEAD_ONLY = ("staleness", "sampler and trainer")  # nothing is missing where nobody sampled ahead
