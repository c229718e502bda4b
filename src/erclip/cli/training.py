"""`train`, `plan` and `study`: commands that train, or say what training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erclip.cli.app import Out, Overrides, command, console, recipe_names
from erclip.errors import UserError

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or a shipped recipe's name.",
        autocompletion=recipe_names,
    ),
]


@command(
    "train",
    "train quickstart",
    "train my.toml --dry-run",
    "train my.toml --set trainer.learning_rate=2e-6 --out runs/first",
    "train my.toml --tracker wandb",
    "train --resume runs/first --set trainer.rollouts=400",
)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or a shipped recipe's name.",
            show_default="quickstart",
            autocompletion=recipe_names,
        ),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="RUN", help="Go on with the run in this folder.", show_default=False
        ),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker",
            metavar="NAME",
            help="Also tell wandb, trackio, tensorboard or mlflow; repeatable.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, train nothing, write nothing.")
    ] = False,
) -> None:
    """Train a model by a recipe; writes a run and its report.

    Without --out the run is in runs/<recipe>-<date>-<time>. Ctrl-C stops it where it can go on.
    """
    from erclip.config.recipes import load_recipe, with_trackers
    from erclip.training.checkpoints.resuming import finished, resumed_recipe

    if resume is None:
        loaded = load_recipe(recipe or "quickstart", overrides or [])
    elif recipe is None and out is None:
        loaded = resumed_recipe(resume, overrides or [])
        done = finished(resume, loaded.config)
        if done is not None:
            console.print(done)
            return
    else:
        raise UserError("--resume goes on with a run's own recipe, in its folder; give neither")
    loaded = with_trackers(loaded, tracker or [])
    if dry_run:
        from erclip.cli.dry_run import dry_run as check

        if not check(loaded, out, console, resume=resume):
            raise typer.Exit(1)
        return

    from erclip.launch import run_training  # takes seconds to import

    code = run_training(loaded, resume or out, console, resume=resume is not None)
    if code:
        raise typer.Exit(code)


@command(
    "plan",
    "plan my.toml",
    "plan paper-7b-erc-dapo --set model.device=cuda --processes 8 --memory-gib 80",
)
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the weights.")] = 1,
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Memory of one process.", show_default="what is free here"),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a long prompt.")] = 256,
) -> None:
    """Say what memory a recipe needs, and what makes it fit.

    Per process. Exit code 1 if it does not fit.
    """
    from erclip.config.recipes import load_recipe
    from erclip.plan.page import print_plan

    config = load_recipe(recipe, overrides or []).config
    if not print_plan(config, processes, memory_gib, prompt_tokens, console):
        raise typer.Exit(1)


@command(
    "study",
    "study studies/core-8.toml",
    "study mine.toml --method ERC-DAPO --seed 0 --at learning_rate=3e-4",
)
def study(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A study: methods, grid and seeds in TOML.")
    ],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at once.", show_default="one per core")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; repeatable.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only here, as learning_rate=3e-4; repeatable."),
    ] = None,
    out: Out = None,
) -> None:
    """Run methods × settings × seeds, and report on them.

    The same command goes on after a stop.
    """
    from erclip.study.command import study as run

    try:
        failed = run(file, out, processes, seed or [], method or [], at or [], console)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command goes on.")
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)
