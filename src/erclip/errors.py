"""Users' mistakes, and other libraries' complaints about them, as one sentence and exit code 2."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from erclip.text import in_a_line, short


class UserError(ValueError):
    """A user's mistake: the message names the offending value and the remedy in one sentence."""


class Diverged(UserError):
    """Training cannot go on: loss or gradients are no numbers any more."""


@contextmanager
def as_user_error(problem: str, remedy: str = "") -> Generator[None]:
    """Whatever fails in here fails for what a user gave: `problem` (the error in a line); `remedy`.

    The one place where errors of parsers, model classes, templates and plugins become sentences:
    which of their dozens of types it is does not matter.

    >>> with as_user_error("x.json cannot be read", "write it again"):
    ...     {}["a"]
    Traceback (most recent call last):
    erclip.errors.UserError: x.json cannot be read: KeyError ('a'); write it again.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        end = f"; {remedy}" if remedy else ""
        raise UserError(f"{problem}: {in_a_line(error)}{end}.") from error


def sentence(error: BaseException) -> str:
    """What to tell a user: a UserError's own words, of anything else what and where it is.

    >>> sentence(UserError("No recipe 'x'.")), sentence(FileNotFoundError(2, "Not there", "a.json"))
    ("No recipe 'x'.", 'Not there: a.json')
    """
    if isinstance(error, UserError):
        text = " ".join(str(error).split())
    elif isinstance(error, OSError) and error.strerror:
        file = error.filename
        text = error.strerror if file is None else f"{error.strerror}: {short(str(file), 200)}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text += "; make room, then run the same command again"
    else:
        text = in_a_line(error)
    notes = [" ".join(note.split()) for note in getattr(error, "__notes__", ())]
    return "; ".join([text.rstrip("."), *notes]) if notes else text
