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
from erclip.runs.checkpoint_folders import MANIFEST, STATE
from erclip.runs.progress import ProgressDisplay
from erclip.runs.run_folder import new_run_lock
from erclip.runs.trackers import Observers, Tracking
from erclip.training.trainer import Trainer

RESUME_FILES = (STATE, MANIFEST)
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
        train(recipe, folder, console, world=world, lock=own[0] if own else None, resume=resume)
    except Stopped as stopped:
        code = stopped.exit_code
        console.print(f"Stopped by {stopped}; go on with: erclip train --resume {folder}")
    except KeyboardInterrupt:
        code = 130
        console.print(f"Interrupted at once; {how_to_go_on(folder)}")
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


def how_to_go_on(folder: Path) -> str:
    """What to type after a run has been broken off."""
    if (folder / "config.json").is_file():
        return f"go on with: erclip train --resume {folder}"
    return "nothing was begun: the same command starts again"


def train(
    recipe: Recipe,
    folder: Path,
    console: Console,
    *,
    world: World | None = None,
    lock: Lock | None = None,
    resume: bool = False,
) -> Trainer:
    """One run with its display, trackers, report and verdict; the trainer as it ended."""
    world = world or World()
    display = ProgressDisplay(recipe.config, console)
    trackers = recipe.config.trackers if world.first else ()
    tracking = Tracking(trackers, folder, display.warn)
    observers = Observers(display, tracking, warn=display.warn)
    processes = f" on {world.size} processes" if world.size > 1 else ""
    console.print(f"{recipe.name}: {recipe.config.description}\nwriting to {folder}{processes}")
    with display:
        trainer = Trainer(
            recipe,
            folder,
            observers,
            world=world,
            resume=resume,
            lock=lock,
            log=display.warn,
            work=observers,
        )
        if resume and world.first:
            display.resume(_lines(folder))
        try:
            with tracking:
                trainer.train()
        except BaseException:
            if world.first:
                _report(folder, console)
            raise
    if world.first:
        _finish(folder, console, trainer.saved)
    return trainer


def _finish(folder: Path, console: Console, checkpoint: Path | None) -> None:
    """Where the model is, what can be done with it, and what came of the run."""
    if checkpoint is not None:
        console.print(f"model: {checkpoint}\npublish it with:\n{publishing(checkpoint)}")
    _report(folder, console)


def publishing(checkpoint: Path) -> str:
    """The two lines that bring a checkpoint to a hub, without what only a resume needs."""
    left_out = " ".join(f"--exclude {name}" for name in ("'optimizer.*'", *RESUME_FILES))
    return f"  hf auth login\n  hf upload YOU/NAME {checkpoint} . {left_out}"


def _lines(folder: Path) -> list[Mapping[str, Any]]:
    """Rollouts and evaluations from before the resume."""
    with (folder / "metrics.jsonl").open("rb") as lines:
        rows = [row for line in lines if b'"update"' not in line and (row := parsed(line))]
    kinds = ("eval", "rollout")
    return [
        row
        for row in rows
        if isinstance(row, dict) and row.get("kind") in kinds and "rollout" in row
    ]


def _report(folder: Path, console: Console) -> None:
    """Write the report and say its headline."""
    from erclip.report import build_report  # its libraries are of no use before the end
    from erclip.report.headline import headline
    from erclip.runs.read import read_run

    try:
        console.print(f"report: {build_report([folder])}")
        found = headline(read_run(folder))
    except Exception as error:  # nothing about a report may hide why the run ended
        console.print(f"report: {sentence(error)}")
        return
    colour = {"good": "green", "warning": "yellow"}.get(found.status, "")
    console.print(f"{found.sentence.rstrip('.')}.", style=f"bold {colour}".strip())
