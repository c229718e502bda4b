"""Calls of functions that users wrote: whatever they do, the run goes on or ends in a sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch

from erclip.errors import UserError
from erclip.machine.interrupts import Stopped
from erclip.text import in_a_line

_ENDS = ("_exit", "abort")


class _Ended(BaseException):
    """The function tried to end the process."""


@contextmanager
def user_code(where: str, what: str = "it") -> Generator[None]:
    """Run a user's code: its errors, `sys.exit` and `os._exit` are a UserError that names `where`.

    The working directory, the streams and torch's switches are afterwards what they were. A child
    that it forked and let come back ends here.
    """
    process, before = os.getpid(), _surroundings()
    try:
        with _no_end(process):
            yield
    except (UserError, Stopped, KeyboardInterrupt):
        raise
    except _Ended as end:
        raise UserError(f"{where}: {what} calls os.{end}, which would end the run.") from None
    except BaseException as error:  # SystemExit and CancelledError, too
        raise UserError(f"{where}: {what} fails with {in_a_line(error)}.") from error
    finally:
        if os.getpid() != process:
            os._exit(1)
        _restore(before)


@contextmanager
def _no_end(process: int) -> Generator[None]:
    real: dict[str, Any] = {name: getattr(os, name) for name in _ENDS}

    def refusing(name: str) -> Any:
        def refuse(*arguments: Any) -> NoReturn:
            if os.getpid() != process:  # a child of its own may end
                real[name](*arguments)
            raise _Ended(name)

        return refuse

    for name in _ENDS:
        setattr(os, name, refusing(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def _surroundings() -> dict[str, Any]:
    return {
        "folder": os.getcwd(),
        "streams": (sys.stdout, sys.stderr),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


def _restore(before: dict[str, Any]) -> None:
    if not _is_here(before["folder"]):
        os.chdir(before["folder"])
    sys.stdout, sys.stderr = before["streams"]
    torch.set_grad_enabled(before["gradients"])
    torch.set_default_dtype(before["dtype"])
    if torch.get_num_threads() != before["threads"]:
        torch.set_num_threads(before["threads"])


def _is_here(folder: str) -> bool:
    with suppress(OSError):  # the folder that it went to may be gone
        return os.getcwd() == folder
    return False
