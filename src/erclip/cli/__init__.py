"""The command `erclip`: one module per family of commands, each a thin edge around the package.

Users' mistakes end in one sentence and exit code 2. Help pages are plain text: nothing in them is
cut, whatever the terminal's width, and defaults are shown.
"""

from erclip.cli import evaluating, looking, making, recipes, training
from erclip.cli.app import app
from erclip.cli.entry import main

ORDER = (
    "train", "init", "settings", "recipes", "data", "plan", "report", "watch", "ledger",
    "noise-floor", "eval", "compare", "inspect-log", "audit-grader", "study", "warmup",
    "fetch-model", "verl",
)  # fmt: skip
"""Of the commands in `erclip --help`: those of a first day first."""

app.registered_commands.sort(
    key=lambda command: ORDER.index(command.name) if command.name in ORDER else len(ORDER)
)

__all__ = ["app", "evaluating", "looking", "main", "making", "recipes", "training"]
