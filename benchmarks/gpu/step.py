"""What every step is told, and the clock that it watches."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

OUT_OF_TIME = 75  # the exit code that the driver reads as "there is more to do"


class Task(argparse.Namespace):
    """The command line of a step."""

    out: Path
    bundle: Path
    device: str
    seconds: float
    started: float

    @property
    def tiny(self) -> bool:
        """A rehearsal: the same lines on shapes that a CPU can do."""
        return self.device == "cpu"

    @property
    def model(self) -> Path:
        """SmolLM2's folder."""
        return self.bundle / "smollm2"

    def left(self) -> float:
        """Seconds until this step has to end by itself."""
        return self.seconds - (time.monotonic() - self.started)

    def stop_if_late(self, needed: float = 0.0) -> None:
        """End the step, to be gone on with in another call, if less than `needed` s are left."""
        if self.left() <= needed:
            print(f"out of time, {self.left():.0f} s left", flush=True)
            sys.exit(OUT_OF_TIME)


def told(doc: str | None) -> Task:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    return parser.parse_args(namespace=Task(started=time.monotonic()))
