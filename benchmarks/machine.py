"""The machine and the commit that a recorded row was measured on."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def cpuinfo(field: str) -> str:
    """One line of /proc/cpuinfo, "" where there is none."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    found = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def instructions() -> list[str]:
    """What decides how fast a CPU multiplies: AVX2 or AVX512, and AMX."""
    amx = ["AMX"] if "amx_bf16" in cpuinfo("flags").split() else []
    return [torch.backends.cpu.get_cpu_capability().replace(" ", ""), *amx]


def hardware() -> str:
    """The machine in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = cpuinfo("model name") or platform.processor() or platform.machine()
    return ", ".join((model, *instructions()))


def kind() -> str:
    """The kind of machine as a file name: amd-avx2, intel-avx512-amx, nvidia-h100-80gb-hbm3."""
    if torch.cuda.is_available():
        return re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower()
    vendor = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
    maker = vendor.get(cpuinfo("vendor_id"), platform.machine())
    return "-".join((maker, *instructions())).lower()


def commit() -> str:
    """The commit that is checked out, or the one that `make gpu` found."""
    named = os.environ.get("ERCLIP_GPU_COMMIT")
    if named:
        return named
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip()


def measured_on() -> dict[str, str]:
    """Date, commit and machine: how every recorded row begins."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "commit": commit(), "hardware": hardware()}


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A new CSV file whose columns are those of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
