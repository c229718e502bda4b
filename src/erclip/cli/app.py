"""The application that every command registers with, and the options that several share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from erclip.machine.console import Console

EXIT_CODES = """\b
Exit codes:
  0    done
  1    not done: a plan that does not fit, a study with failed runs, a fault of ours
  2    a mistake in what was given, in one sentence; nothing was overwritten
  128+ stopped by a signal: 130 by Ctrl-C, 143 by SIGTERM; the last line says how to go on
"""

app = typer.Typer(
    help="Off-policy RL for language models that stays stable: DAPO and GPPO with ERC.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # which cuts option names, and takes [default: …] for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to write to; a new one.", show_default=False),
]


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command whose help page ends with examples of how it is called."""
    lines = "\n".join(f"  $ erclip {example}" for example in examples)
    return app.command(name, epilog=f"\b\nExamples:\n{lines}\n")


def listed(text: str | None) -> tuple[str, ...] | None:
    """The parts of an option such as `boxed,dapo`; None if it was not given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def recipe_names(incomplete: str) -> list[str]:
    """Shipped recipes, for the shell's completion."""
    from erclip.config.recipes import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def setting_keys(incomplete: str) -> list[str]:
    """Keys of the settings, each with its `=`, for the shell's completion."""
    from erclip.config.keys import keys

    found = dict.fromkeys(f"{key.path}=" for key in keys())
    return [key for key in found if key.startswith(incomplete)]


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting, such as trainer.rollouts=20; repeatable. `erclip settings` lists them.",
        autocompletion=setting_keys,
        show_default=False,
    ),
]


def _version(asked: bool) -> None:
    if asked:
        try:
            console.print(f"erclip {version('erclip')}")
        except PackageNotFoundError:
            console.print("erclip, from a folder that is not installed")
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one.")
    ] = False,
) -> None:
    """Off-policy RL for language models that stays stable: DAPO and GPPO with ERC."""
