"""The conversation with a vLLM server over HTTP: who asks, and what can go wrong.

A server that was started with `--api-key` takes the key from this side's VLLM_API_KEY, the variable
that it reads itself. A name and a password in the address go to a proxy that asks for them (Basic);
neither is ever part of a message.
"""

from __future__ import annotations

import base64
import json
import os
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from erclip.errors import UserError, as_user_error

KEY = "VLLM_API_KEY"


class Refused(UserError):
    """The server answered, but not with what was asked for."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class VllmClient:
    """Asks the server at `url`, which may hold a name and a password."""

    def __init__(self, url: str, timeout_s: float):
        with as_user_error("sampler.url is no address", "it looks like http://localhost:8000"):
            parts = urlsplit(url)
            host = parts.hostname or ""
            host = f"[{host}]" if ":" in host else host
            place = host if parts.port is None else f"{host}:{parts.port}"
            self.url = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
        if not host or parts.query or parts.fragment:
            raise UserError(f"sampler.url = {self.url!r} must be a server's address and no more.")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", **_authorization(parts)}
        self._open = build_opener(_NoRedirect).open

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer to a GET, or to a POST where there is a body."""
        url = self.url + path
        data = None if body is None else json.dumps(body).encode()
        asked = Request(url, data, self._headers)  # noqa: S310
        try:
            with self._open(asked, timeout=self._timeout_s) as answer:
                text = answer.read()
        except HTTPError as error:
            raise Refused(error.code, self._refusal(url, error)) from None
        except TimeoutError:
            raise UserError(
                f"The vLLM server did not answer {url} within {self._timeout_s:g} s; "
                "raise sampler.timeout_s or look at the server's log."
            ) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise UserError(
                f"No vLLM server at {self.url} ({reason}); start it or check sampler.url."
            ) from None
        return _parsed(text, url)

    def _refusal(self, url: str, error: HTTPError) -> str:
        if error.code == 401:
            return (
                f"The vLLM server at {self.url} wants its key (401): set {KEY} here to what "
                "`--api-key` is there."
            )
        if 300 <= error.code < 400:
            return (
                f"{url} is elsewhere ({error.code}): set sampler.url to where it is; redirects are "
                "not followed, since a key would go along."
            )
        said = " ".join(error.read().decode(errors="replace").split())[:300]
        return f"The vLLM server refused {url} ({error.code}): {said}"


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Never: what would go along is for one server."""


def _authorization(parts: Any) -> dict[str, str]:
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    key = os.environ.get(KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _parsed(text: bytes, url: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{url} does not answer in JSON; is it a vLLM server?") from None
    return found
