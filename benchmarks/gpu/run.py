"""Everything that only a GPU can tell, in one command without a network: tests, then prices.

    python benchmarks/gpu/run.py --bundle .gpu --minutes 8 --device cuda --out gpu-results

Steps run in order, each in a process of its own with a share of the time that is left; what one
does not use the next ones have. Each writes its rows as it goes. A second call with the same
`--out` leaves out the steps that are done and goes on with what is missing. Results: steps.csv, one
CSV per step, log.txt and page.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from step import OUT_OF_TIME

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DONE, STOPPED, FAILED = "done", "out of time", "failed"


class Step(NamedTuple):
    """A script beside this one, its part of the time, and the seconds under which it is no use."""

    name: str
    parts: float
    least_s: float


STEPS = (  # what has been measured least comes first
    Step("model", 1, 240),
    Step("against_trl", 3, 150),
    Step("unit_tests", 3, 60),
    Step("head", 7, 60),
    Step("training", 5, 60),
    Step("noise", 1, 60),
    Step("processes", 1, 90),
)


class Machine(NamedTuple):
    """What the children are told: their environment, and the facts that go into every row."""

    environment: dict[str, str]
    facts: dict[str, str]


def install(bundle: Path) -> Path:
    """The bundle's wheels in a folder of their own; the machine's packages stay as they are."""
    site = bundle / "site"
    wheels = sorted(map(str, (bundle / "wheels").glob("*.whl")))
    if not wheels:
        sys.exit(
            f"There are no wheels in {bundle / 'wheels'}: run make gpu-bundle, and bring them."
        )
    mark, names = site / ".wheels", "\n".join(wheels)
    if not mark.is_file() or mark.read_text() != names:
        options = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-cache-dir",
            *options,
            *wheels,
        ]
        if subprocess.run(command, check=False).returncode:
            sys.exit(
                f"The wheels in {bundle / 'wheels'} do not suit Python "
                f"{platform.python_version()}: make the bundle with benchmarks/gpu/bundle.py "
                "--python, or run another Python."
            )
        mark.write_text(names)
    return site


def look(bundle: Path, site: Path, device: str) -> Machine:
    """Check Python, packages and device; a sentence says what is missing."""
    paths = [ROOT / "src", ROOT / "benchmarks", HERE, site]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "ERCLIP_TEST_DEVICE": device,
    }
    if device == "cpu":
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    asked = subprocess.run(
        [sys.executable, str(HERE / "environment.py"), device],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if asked.returncode:
        sys.exit(asked.returncode)
    facts = {**json.loads(asked.stdout), "commit": commit(bundle)}
    facts["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    told = {f"ERCLIP_GPU_{name.upper()}": str(value) for name, value in facts.items()}
    return Machine({**environment, **told}, facts)


def commit(bundle: Path) -> str:
    """The bundle's commit, if this tree is what its wheel was made from; else what git says."""
    from bundle import commit as checked_out

    file, source, wheel = bundle / "commit", ROOT / "src/erclip", bundle / "site/erclip"
    names = [path.relative_to(source) for path in source.rglob("*.py")]
    same = all(
        (wheel / name).is_file() and (wheel / name).read_bytes() == (source / name).read_bytes()
        for name in names
    )
    return file.read_text().strip() if same and file.is_file() else checked_out()


def run_step(step: Step, seconds: float, args: argparse.Namespace, machine: Machine) -> str:
    """How it ended; its output goes to the screen and to log.txt."""
    script = HERE / f"{step.name}.py"
    command = [sys.executable, str(script), "--out", str(args.out), "--device", args.device]
    command += ["--bundle", str(args.bundle), "--seconds", f"{max(1.0, 0.9 * seconds - 3):.0f}"]
    with (args.out / "log.txt").open("a") as log:
        log.write(f"\n=== {step.name}, {seconds:.0f} s\n")
        log.flush()
        child = subprocess.Popen(
            command,
            env=machine.environment,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = OUT_OF_TIME
        with suppress(ProcessLookupError):  # and whatever it started and left behind
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return {0: DONE, OUT_OF_TIME: STOPPED}.get(code, FAILED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-results")
    parser.add_argument(
        "--only", nargs="+", choices=[step.name for step in STEPS], help="in this order"
    )
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    args.out, args.bundle = args.out.resolve(), args.bundle.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    machine = look(args.bundle, install(args.bundle), args.device)
    os.environ.update(machine.environment)

    from page import write_page
    from rows import Rows

    steps = Rows(args.out / "steps.csv", ("step", "ended"), ("seconds", "limit_s"))
    known = {step.name: step for step in STEPS}
    todo = [known[name] for name in args.only or known if not steps.has(name, DONE)]
    while todo:
        left = until - time.monotonic() - 5
        if left < 5:
            print(f"No time is left for: {', '.join(step.name for step in todo)}.")
            break
        share = left * todo[0].parts / sum(step.parts for step in todo)
        limit = min(left, max(share, todo[0].least_s))
        step, started = todo.pop(0), time.monotonic()
        ended = run_step(step, limit, args, machine)
        spent = time.monotonic() - started
        steps.add(step.name, ended, seconds=f"{spent:.1f}", limit_s=f"{limit:.0f}")
        write_page(args.out)
    write_page(args.out)
    print(args.out / "page.md")


if __name__ == "__main__":
    main()
