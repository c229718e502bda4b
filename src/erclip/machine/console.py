"""The terminal: what is printed is never markup, and a terminal that is gone ends no run."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from rich.console import Console as RichConsole

from erclip.text import printable, redacted


class Console(RichConsole):
    """rich's console for text that may hold anything.

    A string is printed as it is: no markup, no emoji codes, no highlighting, no control characters,
    and lines as long as they are. When the other end is gone (a closed pipe, a lost ssh), nothing
    is printed any more.
    """

    def __init__(self, **settings: Any):
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**{**plain, **settings})

    def print(self, *objects: Any, **settings: Any) -> None:
        """See rich; strings are made printable."""
        safe = [printable(redacted(part)) if isinstance(part, str) else part for part in objects]
        if all(isinstance(part, str) for part in objects):
            settings = {"soft_wrap": True, **settings}
        super().print(*safe, **settings)

    def on_broken_pipe(self) -> None:
        """Go on in silence: a run must not end because nobody listens."""
        self.quiet = True
        with suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())  # the interpreter's last flush, too

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except UnicodeEncodeError:
            del self._buffer[:]
        except (OSError, ValueError):  # a terminal that hung up, a file that is closed
            del self._buffer[:]
            self.on_broken_pipe()
