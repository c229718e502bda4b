"""SmolLM2's wrong ERC decisions against float64, by head and trunk: `op_numerics.py` on the GPU."""

from __future__ import annotations

import sys

from step import Task, told

import op_numerics


def main(task: Task) -> None:
    if not (task.model / "config.json").is_file():
        sys.exit("There is no model: the step before has to make it.")
    small = ["--new-tokens", "3", "--lrs", "1e-5"] if task.tiny else ["--new-tokens", "128"]
    options = ["--device", task.device, "--out", str(task.out / "noise.csv"), *small]
    sys.argv = ["op_numerics.py", str(task.model), *options]
    op_numerics.main()


if __name__ == "__main__":
    main(told(__doc__))
