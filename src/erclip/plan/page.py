"""A memory plan as a table, with what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from erclip.config import Config
from erclip.machine.console import Console
from erclip.plan.memory import PROMPT_TOKENS, ROOM, Item, Plan, available_bytes, plan
from erclip.plan.remedies import Here, Remedy, remedies

GIB = 1 << 30
PHASES = {
    "sampling": "sampling",
    "update": "forward and backward",
    "step": "optimiser step",
    "checkpoint": "checkpoint",
}


def print_plan(
    config: Config, processes: int, memory_gib: float | None, prompt_tokens: int, console: Console
) -> bool:
    """Print the plan; whether it fits."""
    available = available_bytes(config, processes) if memory_gib is None else memory_gib * GIB
    planned = plan(config, processes, prompt_tokens, available)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("", "left"), ("GiB", "right"), ("how it is reckoned", "left")):
        table.add_column(heading, justify=justify)
    for title, phase in (("always", "always"), *((v, k) for k, v in PHASES.items())):
        if not any(item.phase == phase for item in planned.items):
            continue
        total = "" if phase == "always" else f"{planned.total(phase) / GIB:.2f}"  # ty: ignore[invalid-argument-type]
        table.add_row(f"[bold]{title}", f"[bold]{total}", "")
        for item in planned.items:
            if item.phase == phase:
                table.add_row(*_row(item))
    console.print(table)
    given = memory_gib is not None
    return print_verdict(planned, config, available, console, processes, prompt_tokens, given=given)


def print_verdict(
    planned: Plan,
    config: Config,
    available: float,
    console: Console,
    processes: int = 1,
    prompt_tokens: int = PROMPT_TOKENS,
    *,
    given: bool = False,
) -> bool:
    """Print whether a plan fits, and if not what would help; whether it fits.

    `available` bytes are one process's: of a memory that was `given`, or of this machine.
    """
    fits = planned.fits(available)
    enough = planned.peak <= ROOM * available
    verdict = "fits into" if enough else "does not fit into"
    free = f"{available / GIB:.2f} GiB, of which a fifth stays free (docs/memory.md)"
    console.print(
        f"memory: peak per process {planned.peak / GIB:.2f} GiB {verdict} {free}",
        style="green" if fits else "red",
    )
    for item in planned.items:
        if not item.enough:
            console.print(f"{item.name} too small: {item.why}", style="red")
    if not fits:
        load = Here(available, processes, given=given)
        _print_remedies(remedies(config, load, prompt_tokens), console)
    return fits


def _row(item: Item) -> tuple[str, str, str]:
    size = item.bytes / GIB
    return f"  {item.name}", f"{size:.2f}" if size >= 0.005 else "< 0.01", item.why


def _print_remedies(found: Sequence[Remedy], console: Console) -> None:
    if not found:
        console.print("no single change helps.")
        return
    console.print(
        "one of these makes it fit:"
        if found[0].enough
        else "no single change is enough; these help:"
    )
    for remedy in found:
        console.print(f"  {remedy.setting}: {remedy.peak / GIB:.2f} GiB")
