"""`erclip train`: one run from its settings to its report, on every process that takes part."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erclip.config.recipes import Recipe
from erclip.errors import UserError, sentence
from erclip.machine.console import Console
from erclip.machine.distributed import AllFailed, World, is_lost_peer, join_world, leave_world
from erclip.machine.files import parsed
from erclip.machine.interrupts import Stopped
from erclip.machine.locks import Lock
from erclip.runs.progress import ProgressDisplay
from erclip.runs.run_folder import new_run_lock
from erclip.runs.trackers import Observers, Tracking
from erclip.training.trainer import Trainer

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def run_training(recipe: Recipe, out: Path | None, console: Console, *, resume: bool) -> int:
    """Train, or go on with the run in `out`; the exit code (128 + the signal after one)."""
    world = join_world(recipe.config.model.device)
    own: list[Lock] = []

    def choose() -> Path:
        if out is not None:
            return out
        own.append(new_run_lock(recipe.name))
        return own[0].folder

    folder = world.from_first(choose)
    if not world.first:
        console = Console(quiet=True)
    code = 0
    try:
        _train(recipe, folder, console, world, own[0] if own else None, resume)
    except Stopped as stopped:
        code = stopped.exit_code
        console.print(f"Stopped by {stopped}; go on with: erclip train --resume {folder}")
    except KeyboardInterrupt:
        code = 130
        console.print("Interrupted at once: what was written up to here is kept.")
    except UserError as error:
        if not world.first and not isinstance(error, AllFailed):
            Console(stderr=True).print(f"erclip, process {world.rank}: {sentence(error)}")
        raise
    except OSError as error:
        if error.errno not in DISK:
            raise
        notes = getattr(error, "__notes__", None)
        what = "; ".join(notes or [f"make room, then go on with erclip train --resume {folder}"])
        raise UserError(f"Cannot write to {folder} ({error.strerror}); {what}") from error
    except RuntimeError as error:
        if world.size == 1 or not is_lost_peer(error):
            raise
        raise UserError(
            f"One of the {world.size} processes is gone and the run ended with it (torchrun's "
            f"table below says which); go on with: erclip train --resume {folder}"
        ) from error
    finally:
        for lock in own:
            lock.release()
    leave_world()
    return code


def _train(
    recipe: Recipe, folder: Path, console: Console, world: World, lock: Lock | None, resume: bool
) -> None:
    display = ProgressDisplay(recipe.config, console)
    trackers = recipe.config.trackers if world.first else ()
    tracking = Tracking(trackers, folder, display.warn)
    trainer = Trainer(
        recipe,
        folder,
        Observers(display, tracking, warn=display.warn),
        world=world,
        resume=resume,
        lock=lock,
        log=display.warn,
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


def _evaluations(folder: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """Those from before the resume, for the summary."""
    with (folder / "metrics.jsonl").open("rb") as lines:
        rows = [row for line in lines if b'"eval"' in line and (row := parsed(line))]
    return [
        (row["rollout"], row)
        for row in rows
        if isinstance(row, dict) and row.get("kind") == "eval" and "rollout" in row
    ]


def _report(folder: Path, console: Console) -> None:
    from erclip.report import build_report  # its libraries are of no use before the end

    try:
        console.print(f"report: {build_report([folder])}")
    except Exception as error:  # nothing about a report may hide why the run ended
        console.print(f"report: {sentence(error)}")
