"""The package as others get it: torch and jaxtyping carry its core, an extra carries the rest."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from erclip.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = ("jaxtyping", "torch")
PAGES = (ROOT / "README.md", ROOT / "docs" / "integrate.md")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True, timeout=180)
    (wheel,) = folder.glob("erclip-*.whl")
    return wheel


def unpack(wheel, site):
    """What an installer does with a wheel of Python alone, less the command."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def empty_environment(folder):
    """A new environment's Python and the folder of its packages."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return folder / "bin" / "python", site


def needed(names):
    """Distributions that `names` require, themselves included; no extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found.values()


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The base wheel beside torch, jaxtyping and what these require, which are only linked."""
    python, site = empty_environment(tmp_path_factory.mktemp("bare"))
    for distribution in needed(CORE):
        for top in {file.parts[0] for file in distribution.files if ".." not in file.parts}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    unpack(wheel, site)
    return python


def blocks(page):
    """The page's Python code that needs no other trainer."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    return [code for code in found if "erclip.integrations" not in code]


FORKS = """
import json, os, sys, tempfile, torch

def texts(streams):
    for stream in streams:
        stream.seek(0)
        yield stream.read()

ends = []
for code in json.load(sys.stdin):
    streams = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream.fileno(), number)
        exec(code, {"__name__": "__main__"})
        sys.exit()
    status = os.waitpid(child, 0)[1]
    ends.append([os.waitstatus_to_exitcode(status), *texts(streams)])
print(json.dumps(ends))
"""


class End(NamedTuple):
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


def run(python, codes):
    """Each of these programs by this Python, in a fork of a process that imported torch alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONWARNINGS"] = "ignore:Failed to initialize NumPy"  # torch's own, without it
    done = subprocess.run(
        [python, "-c", FORKS],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(python).parents[1],
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [End(*end) for end in json.loads(done.stdout)]


EVERY_MODULE = """
import importlib, pkgutil, erclip.losses, erclip.ops
for wing in (erclip.losses, erclip.ops):
    for module in pkgutil.walk_packages(wing.__path__, wing.__name__ + "."):
        if not module.name.rpartition(".")[2].startswith("triton_"):
            importlib.import_module(module.name)
"""
DISTRIBUTIONS = """
from importlib import metadata
print(*sorted(d.name.lower() for d in metadata.distributions()))
"""


def check_core(python):
    """The package alone: what the pages print runs, and every module of losses and op."""
    codes = [(page.name, code) for page in PAGES for code in blocks(page)]
    assert {name for name, _ in codes} == {page.name for page in PAGES}
    *printed, every, listed = run(
        python, [*(code for _, code in codes), EVERY_MODULE, DISTRIBUTIONS]
    )
    for (name, _), done in zip(codes, printed, strict=True):
        assert (done.returncode, done.stderr) == (0, ""), (name, done.stderr)
        assert done.stdout
    assert (every.returncode, every.stderr) == (0, "")
    assert not {"numpy", "transformers", "pydantic", "typer"} & set(listed.stdout.split())


def test_the_base_wheel_runs_what_the_pages_print(bare):
    check_core(bare)


def test_what_a_registry_shows_needs_no_repository(wheel):
    """The description in the metadata: the README's words, without its pictures and inner links."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    found = email.message_from_string(text)
    assert found["Description-Content-Type"] == "text/markdown"
    description = found.get_payload()
    assert description.startswith("# erclip\n")
    assert "from erclip import entropy_ratio_clip" in description
    assert "[arXiv 2512.05591](https://arxiv.org/abs/2512.05591)" in description
    assert re.findall(r"!\[|\]\((?!https?://)", description) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_base_wheel_installs_into_an_empty_environment(wheel, tmp_path):
    python, _ = empty_environment(tmp_path / "empty")
    install = [*PIP, "--python", python, "install", wheel]
    subprocess.run(install, check=True, timeout=1500)
    check_core(python)


MISSING = {
    "from erclip.__main__ import main; main()": "train",
    "import erclip.config": "train",
    "import erclip.training.trainer": "train",
    "import erclip.runs.read": "train",
    "import erclip.pages.sheet": "train",
    "import erclip.grading": "grading",
    "import erclip.integrations.trl": "trl",
    "import erclip.integrations.verl.settings": "verl",
    "import erclip.integrations.verl.worker": "verl",
    "from erclip.integrations.swift import use; use({})": "swift",
    "import erclip.integrations.skyrl": "train",
    "import erclip.integrations.prime_rl": "train",
}


@pytest.fixture(scope="module")
def without(bare):
    """How each of these programs ends where the extra is missing."""
    return dict(zip(MISSING, run(bare, list(MISSING)), strict=True))


@pytest.mark.parametrize("code", MISSING)
def test_what_is_missing_is_named_with_its_extra_in_one_sentence(code, without):
    done = without[code]
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf".* needs \w+: pip install 'erclip\[{MISSING[code]}\]'", last)
    if "main()" in code:
        assert (done.returncode, done.stdout, done.stderr) == (2, "", last + "\n")


def test_an_extra_brings_what_is_imported():
    """Every import in the package is in torch's closure or in a named extra, and is required."""
    tops = set()
    for file in (ROOT / "src" / "erclip").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                tops.add(str(node.module).partition(".")[0])
    brought = {module for modules in EXTRAS.values() for module in modules}
    others = tops - set(sys.stdlib_module_names) - {"erclip", "triton", *CORE}
    assert others <= brought, "give them to an extra in erclip.extras"

    required = PROJECT["optional-dependencies"]
    distributions = metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        names = {canonicalize_name(Requirement(text).name) for text in required[extra]}
        for module in modules:
            name = {"swift": "ms-swift"}.get(module, module.removesuffix("_core"))
            own = distributions.get(module, [name])
            if extra != "verl" or module == "verl":  # the others come with verl[verl-core]
                assert {canonicalize_name(name) for name in own} & names, (extra, module)


def test_every_extra_stands_on_train():
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra not in ("grading", "train", "dev"):
            assert "erclip[train]" in requirements, extra


def test_the_wheel_trains_outside_the_clone(wheel, tmp_path):
    """Unpacked somewhere else, run from there: nothing depends on the source tree."""
    site = tmp_path / "site"
    unpack(wheel, site)
    code = """
import erclip, runpy
print(erclip.__file__, flush=True)
runpy.run_module("erclip", run_name="__main__")
"""
    sets = ("trainer.rollouts=1", "rollout.prompts=4", "trainer.updates_per_rollout=2",
            "eval.prompts=4")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--out", "run", *(f"--set={key}" for key in sets)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").is_file()
    assert done.stdout.startswith(str(site))
