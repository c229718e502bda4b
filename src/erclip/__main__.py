"""`python -m erclip` is the command `erclip`; it stands on the extra `train`."""

from __future__ import annotations

import sys

from erclip.extras import MissingExtra, stand_on


def main() -> None:
    """Run the command, or say in one sentence what it needs."""
    try:
        stand_on("train", "the command erclip")
        stand_on("grading", "the command erclip")
    except MissingExtra as missing:
        print(f"erclip: {missing}", file=sys.stderr)
        sys.exit(2)
    from erclip.cli import main as run

    run()


if __name__ == "__main__":
    main()
