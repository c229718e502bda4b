"""`erclip train --resume RUN` in which one process disappears at its second update."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from erclip.cli import main
from erclip.training.updates import Updater


def die_at_second_update(run: str) -> None:
    real, calls = Updater.update, []

    def update(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            Path(run, "died").write_text(str(time.time()))
            os._exit(7)
        return real(self, *arguments)

    Updater.update = update


if __name__ == "__main__":
    rank, run = sys.argv[1:]
    if os.environ["RANK"] == rank:
        die_at_second_update(run)
    sys.argv = ["erclip", "train", "--resume", run, "--set", "trainer.rollouts=4"]
    main()
