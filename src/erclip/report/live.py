"""`erclip watch`: the report of a run that is under way, served to this machine only.

A request for the page finds it rendered, unless the run's files have changed since. Rendering takes
seconds, so it is done only when somebody asks, and takes a fifth of one core at most.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.report.page import Live, render
from erclip.runs.read import read_runs

PORT = 8117
HOST = "127.0.0.1"
_FILES = ("config.json", "metrics.jsonl", "tokens.jsonl", "samples.jsonl")
_REST = 4.0  # s for each second of CPU time that the last rendering took


class Watched:
    """The runs' page, rendered anew when their files have changed; any thread may ask."""

    def __init__(self, paths: Sequence[Path], every: float):
        self._paths, self._every = list(paths), every
        self._lock = threading.Lock()
        self._shown = self._html = ""
        self._not_before = 0.0

    def version(self) -> str:
        """Which state the next page would show; changes when there is something new to see."""
        now = self._state()
        return now if not self._html or time.monotonic() >= self._not_before else self._shown

    def page(self) -> str:
        """The page of that state."""
        with self._lock:
            state = self.version()
            if state != self._shown or not self._html:
                began = time.thread_time()
                self._html = render(read_runs(self._paths), Live(state, self._every))
                self._shown = state
                self._not_before = time.monotonic() + _REST * (time.thread_time() - began)
            return self._html

    def _state(self) -> str:
        stamps = []
        for path in self._paths:
            for name in _FILES:
                try:
                    stat = (path / name).stat()
                except OSError:
                    stamps.append("-")
                else:
                    stamps.append(f"{stat.st_mtime_ns:x}.{stat.st_size:x}")
        return "_".join(stamps)


def serve(watched: Watched, port: int | None) -> ThreadingHTTPServer:
    """Return a server on the loopback address; with no port given, 8117 or a free one.

    Raises `UserError` where the port is taken or not allowed.
    """
    handler = _handler(watched.page, watched.version)
    try:
        return ThreadingHTTPServer((HOST, PORT if port is None else port), handler)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return ThreadingHTTPServer((HOST, 0), handler)
        raise UserError(
            f"cannot serve on port {port} ({error.strerror}); give --port another"
        ) from (error)


def watch(paths: Sequence[Path], port: int | None, every: float, console: Console) -> None:
    """Serve until Ctrl-C."""
    read_runs(paths)  # what is wrong with them is said here, not in the browser
    with serve(Watched(paths, every), port) as server:
        console.print(f"watching at http://{HOST}:{server.server_port} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("The watch has ended; the run is not touched by it.")


def _handler(page: Callable[[], str], version: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    """Two addresses, `/` and `/state`; nothing is read that a request names."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN, "this page is for this machine only")
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", page)
            elif self.path == "/state":
                self._answer("application/json", lambda: json.dumps({"version": version()}))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, kind: str, made: Callable[[], str]) -> None:
            try:
                body = made().encode("utf-8", "replace")
            except (UserError, OSError) as error:  # a folder that is being moved or deleted
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "not readable now", str(error))
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of requests."""

    return Handler
