"""Whether this machine can run `make gpu`, and what it is, as JSON; exits with what is missing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.util import find_spec

NEEDED = (
    *("torch", "triton", "transformers", "peft", "accelerate", "safetensors", "tokenizers"),
    *("numpy", "matplotlib", "jinja2", "typer", "rich", "pydantic", "jaxtyping", "sympy", "mpmath"),
    *("math_verify", "latex2sympy2_extended", "antlr4", "gguf"),
    *("pytest", "pytest_timeout", "hypothesis"),
)


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return run.stdout.split("\n")[0].strip()


def main(device: str) -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"This Python lacks {', '.join(missing)}: add them to benchmarks/gpu/wheels.txt.")
    import torch
    import transformers
    import triton

    from machine import hardware

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch shows no CUDA device here: rehearse on the CPU with make gpu DEVICE=cpu.")
    facts = {
        "device": hardware(),
        "devices": torch.cuda.device_count(),
        "driver": driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
