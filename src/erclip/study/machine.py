"""Which CPU made a row: two runs of one seed agree to the bit on one kind of CPU alone."""

from __future__ import annotations

import platform
from pathlib import Path

from erclip.study.outcomes import Row

_FAMILIES = ("avx", "amx", "fma", "asimd", "sve", "bf16", "i8mm")  # flags that choose kernels


def cpu() -> str:
    """Model numbers and the vector instructions that torch's kernels are chosen by, in one line."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return f"{platform.processor() or platform.machine()}, {capability}"
    lines = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return describe(dict(line.split(":", 1) for line in lines if ":" in line), capability)


def describe(info: dict[str, str], capability: str) -> str:
    """The same, from one processor's entry of /proc/cpuinfo.

    >>> describe({"cpu family\\t": " 6", "model\\t\\t": " 85", "stepping\\t": " 7",
    ...           "flags\\t\\t": " fpu avx2 sse avx512f"}, "AVX512")
    '6/85/7, AVX512: avx2 avx512f'
    """
    info = {key.strip(): value.strip() for key, value in info.items()}
    numbers = [info[key] for key in ("cpu family", "model", "stepping") if key in info]
    flags = info.get("flags", info.get("Features", "")).split()
    kept = sorted(flag for flag in flags if flag.startswith(_FAMILIES))
    return f"{'/'.join(numbers)}, {capability}: {' '.join(kept)}"


def machine(row: Row) -> str:
    """What must be equal where two rows are compared; older rows have the first half of it alone.

    >>> machine({"hardware": "Xeon, 2 cores", "cpu": ""})
    'Xeon, 2 cores'
    """
    return ", ".join(filter(None, (row.get("hardware", ""), row.get("cpu", ""))))
