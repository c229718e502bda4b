"""Two gloo processes, DDP and FSDP2, are one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .worker import main

WORKER = Path(__file__).with_name("worker.py")
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def launch(folder, ranks, dynamic_sampling, environment):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc_per_node={ranks}", str(WORKER), str(folder), str(ranks), dynamic_sampling),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def results(folder):
    history = json.loads((folder / "history.json").read_text())
    return load_file(folder / "weights.safetensors"), history


@pytest.mark.parametrize(
    ("dynamic_sampling", "environment"),
    [("refill", {}), ("drop", FSDP2)],
    ids=["DDP", "FSDP2"],
)
def test_two_processes_are_one(tmp_path, dynamic_sampling, environment):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    main(one, 1, dynamic_sampling)
    launch(two, 2, dynamic_sampling, environment)
    (want, one), (got, two) = results(one), results(two)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-5, msg=name)
    names = ["loss", "reward", "clip/erc_frac", "erc/ratio_q05", "train/tokens"]
    for name in [*names, "train/groups_kept_frac", "train/responses"]:
        a = [line[name] for line in one if name in line]
        b = [line[name] for line in two if name in line]
        assert a, name
        assert b == pytest.approx(a, abs=1e-4), name
    clipped = [line["clip/erc_frac"] for line in two if "clip/erc_frac" in line]
    assert clipped[0] == clipped[3] == 0.0
    assert min(clipped[1:3]) > 0.01
