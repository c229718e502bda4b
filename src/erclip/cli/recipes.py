"""`recipes`, `settings` and `init`: what can be trained, by which keys, and a first recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erclip.cli.app import command, console, setting_keys


@command("recipes", "recipes")
def recipes() -> None:
    """List the shipped recipes, a line each."""
    from erclip.config.recipes import load_recipe, shipped_recipes

    names = shipped_recipes()
    width = max(map(len, names))
    for name in names:
        console.print(f"{name:<{width}}  {load_recipe(name).config.description}")


@command("settings", "settings", "settings trainer", "settings loss.constraints")
def settings(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="A section or a key.",
            show_default=False,
            autocompletion=lambda incomplete: [key.rstrip("=") for key in setting_keys(incomplete)],
        ),
    ] = "",
) -> None:
    """List every key of a recipe: default, bounds, meaning."""
    from erclip.config.listing import listing

    for line in listing(prefix, console.width):
        console.print(line)


@command(
    "init",
    "init my.toml",
    "init my.toml --model Qwen/Qwen3-0.6B --data train.jsonl",
)
def init(
    out: Annotated[Path, typer.Argument(metavar="OUT.toml", help="The recipe; a new file.")],
    model: Annotated[
        str | None,
        typer.Option(help='"embedded", a model folder or a hub id.', show_default="asked"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="countdown, a file or a hub data set.", show_default="asked"),
    ] = None,
) -> None:
    """Write a commented recipe for a model and data.

    In a terminal it asks for what no option says.
    """
    from erclip.cli.starter import write_starter

    ask = console.is_terminal
    if model is None:
        model = typer.prompt("Model (folder or hub id)", "embedded") if ask else "embedded"
    if data is None:
        data = typer.prompt("Data (file, hub id or countdown)", "countdown") if ask else "countdown"
    for line in write_starter(out, model, data):
        console.print(line)
    console.print(f"recipe: {out}\ncheck it:  erclip train {out} --dry-run")
    console.print(f"train:     erclip train {out}")
