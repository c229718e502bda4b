"""HTML from templates, and its way to the disk: one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from erclip.errors import UserError
from erclip.machine.files import write_text


def environment() -> Environment:
    """Return the templates of this package; what they print is escaped."""
    return Environment(
        loader=PackageLoader("erclip.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write(out: Path, html: str) -> None:
    """Write a page whole or not at all."""
    try:
        write_text(out, html)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out} ({error.strerror}); give --out another place"
        ) from error
