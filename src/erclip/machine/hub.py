"""Whether the hub can be reached: asked once, in seconds, where libraries would try for minutes."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from erclip.errors import UserError

PATIENCE_S = 4.0


@contextmanager
def from_hub(what: str, name: str, remedy: str) -> Generator[None]:
    """Whatever is loaded in here by `name`, which may be an id on the hub, or a local path.

    Without a connection only this machine's cache is asked. Raises UserError if it has nothing.
    """
    local = Path(name).exists() or name.startswith((".", "/", "~"))  # no hub has such an id
    offline = not local and not reachable()
    if offline:
        _stay_offline()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not offline:
            raise
        wish = " (HF_HUB_OFFLINE is set)" if _told_offline() else ""
        raise UserError(
            f"{what} {name!r} is not in this machine's cache, and {_host()} cannot be reached"
            f"{wish}; {remedy}."
        ) from error


def reachable() -> bool:
    """Whether somebody answers where the hub is, or where the proxy on the way to it is."""
    return not _told_offline() and _answers(*_address())


@cache
def _answers(host: str, port: int) -> bool:
    found = threading.Event()

    def try_it() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE_S):
            found.set()

    trying = threading.Thread(target=try_it, daemon=True)  # a look-up of names has no time limit
    trying.start()
    trying.join(PATIENCE_S)
    return found.is_set()


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _host() -> str:
    return urlsplit(_endpoint()).hostname or _endpoint()


def _address() -> tuple[str, int]:
    """Host and port that a connection begins with."""
    endpoint = urlsplit(_endpoint())
    proxy = getproxies().get(endpoint.scheme)
    if proxy and not proxy_bypass(_host()):
        endpoint = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    return endpoint.hostname or _host(), port


@cache
def _told_offline() -> bool:
    """Whether the user wants none of it; asked before `_stay_offline` says so."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _stay_offline() -> None:
    """Let the libraries look into the cache alone."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # for those that are not imported yet
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it read the environment when it was imported
        vars(constants)["HF_HUB_OFFLINE"] = True
