"""Where files are written: `--out` is a folder, and nothing in it is overwritten unasked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from erclip.errors import UserError

ROOT = Path("reports")
FILES = {".html", ".htm", ".md", ".json", ".jsonl", ".csv", ".txt", ".toml"}


@contextmanager
def new_page(out: Path | None, kind: str, name: str) -> Generator[Path]:
    """The place of a new page: in the folder `out`, else in reports/<kind>-<date>-<time>.

    Folders are made at once, and gone again if what is done with the page fails. Raises UserError
    where it would overwrite one.
    """
    folder = _unused(kind) if out is None else check_folder(out)
    if (folder / name).exists():
        raise UserError(f"{folder} holds {name} already; give --out a new folder.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder / name
    except BaseException as error:
        for path in made:
            with suppress(OSError):  # something else has come into it
                path.rmdir()
        if isinstance(error, OSError) and error.filename == str(folder):
            raise UserError(f"Cannot make the folder {folder} ({error.strerror}).") from None
        raise


def check_folder(out: Path) -> Path:
    """Refuse what is a file, or is called like one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out must name a folder.")
    if not out.exists() and out.suffix in FILES:
        raise UserError(f"--out {out}: give a folder, not a file; {out.with_suffix('')} would do.")
    return out


def _unused(kind: str) -> Path:
    """A folder that is not there yet."""
    stem = f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    names = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
    return next(path for name in names if not (path := ROOT / name).exists())
