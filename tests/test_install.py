"""The package as others get it: torch and jaxtyping carry its core, an extra carries the rest."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

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
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True, timeout=120)
    return python


def blocks(page):
    """The page's Python code that needs no other trainer."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    return [code for code in found if "erclip.integrations" not in code]


def run(python, code, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONWARNINGS"] = "ignore:Failed to initialize NumPy"  # torch's own, without it
    return subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(python).parents[1],
        timeout=120,
        check=False,
    )


def check_core(python):
    """The package alone: what the pages print runs, and every module of losses and op."""
    for page in PAGES:
        codes = blocks(page)
        assert codes, page
        for code in codes:
            done = run(python, code)
            assert (done.returncode, done.stderr) == (0, ""), (page.name, done.stderr)
            assert done.stdout
    code = """
import importlib, pkgutil, erclip.losses, erclip.ops
for wing in (erclip.losses, erclip.ops):
    for module in pkgutil.walk_packages(wing.__path__, wing.__name__ + "."):
        if not module.name.rpartition(".")[2].startswith("triton_"):
            importlib.import_module(module.name)
"""
    done = run(python, code)
    assert (done.returncode, done.stderr) == (0, "")
    listed = run(python, "from importlib import metadata as m; "
                         "print(*sorted(d.name.lower() for d in m.distributions()))")  # fmt: skip
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


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from erclip.__main__ import main; main()", "train"),
        ("import erclip.config", "train"),
        ("import erclip.training.trainer", "train"),
        ("import erclip.runs.read", "train"),
        ("import erclip.pages.sheet", "train"),
        ("import erclip.grading", "grading"),
        ("import erclip.integrations.trl", "trl"),
        ("import erclip.integrations.verl.settings", "verl"),
        ("import erclip.integrations.verl.worker", "verl"),
        ("from erclip.integrations.swift import use; use({})", "swift"),
        ("import erclip.integrations.skyrl", "train"),
        ("import erclip.integrations.prime_rl", "train"),
    ],
)
def test_what_is_missing_is_named_with_its_extra_in_one_sentence(bare, code, extra):
    done = run(bare, code)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf".* needs \w+: pip install 'erclip\[{extra}\]'", last)
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
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-m", "erclip", "train", "--out", "run", "--set", "trainer.rollouts=1",
         "--set", "rollout.prompts=8", "--set", "eval.prompts=4"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    where = subprocess.run(
        [sys.executable, "-c", "import erclip; print(erclip.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(site))
