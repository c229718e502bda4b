"""`main`: runs the command and turns whatever goes wrong into a sentence and an exit code."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback

from erclip.cli.app import app
from erclip.errors import UserError, sentence
from erclip.machine.console import Console
from erclip.text import redacted

errors = Console(stderr=True)


def main() -> None:
    """Entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a sign shows another
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="erclip")
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
            errors.print(f"erclip: {sentence(error)}", style="red")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = "" if error.filename else _traceback(error)
        errors.print(f"erclip: {sentence(error)}{where}", style="red")
        sys.exit(2)
    except Exception as error:
        errors.print(
            f"erclip: this should not have happened: {sentence(error)}{_traceback(error)}",
            style="red",
        )
        sys.exit(1)


def _traceback(error: BaseException) -> str:
    """The whole story in a file, for whoever mends it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="erclip-traceback-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(redacted("".join(traceback.format_exception(error))))
    except OSError:
        return ""
    return f" (the traceback is in {name})"
