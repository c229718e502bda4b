"""`erclip train`: one run from its settings to its report, on every process that takes part."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from erclip.distributed import AllFailed, World, is_lost_peer, join_world, leave_world
from erclip.errors import UserError
from erclip.interrupts import Stopped
from erclip.progress import ProgressDisplay
from erclip.recipes import Recipe
from erclip.report import build_report
from erclip.run_dir import default_path
from erclip.trackers import Observers, Tracking
from erclip.trainer import Trainer

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def run_training(recipe: Recipe, folder: Path | None, console: Console, *, resume: bool) -> int:
    """Train, or go on with the run in `folder`; the exit code (130 and 143 after a signal)."""
    world = join_world(recipe.config.model.device)
    folder = world.from_first(lambda: folder or default_path(recipe.name))
    if not world.first:
        console = Console(quiet=True)
    code = 0
    try:
        _train(recipe, folder, console, world, resume)
    except Stopped as stopped:
        code = stopped.exit_code
        console.print(
            f"Stopped by {stopped}; go on with: erclip train --resume {folder}", soft_wrap=True
        )
    except KeyboardInterrupt:
        code = 130
        console.print("Interrupted at once: what was written up to here is kept.")
    except UserError as error:
        if not world.first and not isinstance(error, AllFailed):
            Console(stderr=True).print(f"erclip, process {world.rank}: {error}", soft_wrap=True)
        raise
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise UserError(
            f"Cannot write to {folder} ({error.strerror}); make room, then go on with "
            f"erclip train --resume {folder}"
        ) from error
    except RuntimeError as error:
        if world.size == 1 or not is_lost_peer(error):
            raise
        raise UserError(
            f"One of the {world.size} processes is gone and the run ended with it (torchrun's "
            f"table below says which); go on with: erclip train --resume {folder}"
        ) from error
    leave_world()
    return code


def _train(recipe: Recipe, folder: Path, console: Console, world: World, resume: bool) -> None:
    display = ProgressDisplay(recipe.config, console)
    trackers = recipe.config.trackers if world.first else ()
    tracking = Tracking(trackers, folder, display.warn)
    trainer = Trainer(
        recipe, folder, Observers(display, tracking), world=world, resume=resume, say=display.warn
    )
    processes = f" on {world.size} processes" if world.size > 1 else ""
    console.print(f"{recipe.name}: {recipe.config.description}\nwriting to {folder}{processes}")
    if resume and world.first:
        display.evals += _evaluations(folder)
    try:
        with display, tracking:
            trainer.train()
    finally:
        if world.first:
            _report(folder, console)
    summary = display.summary()
    if summary is not None:
        console.print(summary)
    nothing = display.last_word()
    if nothing is not None:
        display.warn(nothing)


def _evaluations(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Those from before the resume, for the summary."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows: Sequence[dict] = [json.loads(line) for line in lines]
    return [(row["rollout"], row) for row in rows if row["kind"] == "eval"]


def _report(folder: Path, console: Console) -> None:
    try:
        console.print(f"report: {build_report([folder])}", soft_wrap=True)
    except (OSError, UserError) as error:  # a full disk must not hide why the run ended
        console.print(f"report: {error}", soft_wrap=True, markup=False, highlight=False)
