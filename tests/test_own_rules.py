"""docs/extending.md, "A rule of your own", to the end: metrics, ledger, report, compare, resume."""

from __future__ import annotations

import json
import pickle
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from erclip.cli import app
from erclip.config import Config
from erclip.config.recipes import load_recipe
from erclip.config.rules import section_of
from erclip.errors import UserError
from erclip.losses.testing import check_loss
from erclip.machine import plugins
from erclip.runs.ledger import read_ledger
from erclip.training.updates import Updater, build_loss

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SHORT = """
[trainer]
rollouts = 2
updates_per_rollout = 4
warmup_updates = 0
learning_rate = 3e-4
[rollout]
prompts = 16
[eval]
prompts = 4
responses = 2
[ledger]
every = 1
"""
LOSS = """
extends = "quickstart"
[loss]
surrogate = { kind = "my_rules.py:squared", epsilon = 0.3 }
constraints = [{ kind = "my_rules.py:rare_tokens", least = 0.05 }, "my_rules.py:by_entropy"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's file and a recipe beside it."""
    path = tmp_path_factory.mktemp("rules")
    (code,) = re.findall(r"```python\n(# my_rules\.py\n.*?)```", PAGE.read_text(), re.S)
    (path / "my_rules.py").write_text(code)
    (path / "mine.toml").write_text(LOSS + SHORT)
    return path


@pytest.fixture(scope="module")
def run(folder):
    pytest.importorskip("pyarrow")
    out = folder / "run"
    done = CliRunner().invoke(app, ["train", str(folder / "mine.toml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out, done.output


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_rules_keep_every_promise(folder):
    config = load_recipe(str(folder / "mine.toml")).config
    check_loss(build_loss(config.loss))


def test_metrics_have_the_rules_under_their_own_names(run):
    updates = [line for line in lines(run[0] / "metrics.jsonl") if line["kind"] == "update"]
    assert any(line["clip/rare_frac"] > 0 for line in updates)
    assert all(0.5 < line["weight/by_entropy"] < 1 for line in updates)
    assert all("clip/far_frac" in line for line in updates)
    assert "far" in run[1]
    assert "rare" in run[1]


def test_the_ledger_has_a_column_for_each(run):
    ledger = read_ledger(run[0])
    assert {"far", "rare", "erc_low"} <= set(ledger.flags)
    updates = [line for line in lines(run[0] / "metrics.jsonl") if line["kind"] == "update"]
    for line in updates:
        here = ledger.places["update"] == line["update"]
        count = int(here.sum())
        assert int(ledger.flags["rare"][here].sum()) == round(line["clip/rare_frac"] * count)
        mean = ledger.weights["by_entropy"][here].double().mean().item()
        assert mean == pytest.approx(line["weight/by_entropy"], rel=1e-6)
    rare = ledger.flags["rare"]
    assert (ledger.measures["old_logprob"][rare].exp() < 0.05).all()
    assert (ledger.measures["advantage"][rare] < 0).all()
    assert "sampler_logprob" in ledger.measures


def test_report_ledger_and_compare_name_the_rules(run, folder):
    html = (run[0] / "report.html").read_text()
    assert "squared with rare tokens with by entropy" in html
    assert '"far"' in html
    assert '"rare"' in html
    out = folder / "plain"
    arguments = ["train", str(folder / "mine.toml"), "--out", str(out)]
    arguments += ["--set", "loss.surrogate=ppo_clip", "--set", "loss.constraints=[]"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = folder / "compared" / "compare.html"
    arguments = ["compare", str(out), str(run[0]), "--out", str(page.parent)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "squared with rare tokens with by entropy" in words
    assert "clipped by rare (%)" in words
    done = CliRunner().invoke(app, ["ledger", str(run[0])], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "rare, as trained" in done.output


def test_a_run_with_them_resumes(run, folder, monkeypatch):
    """The resolved config names the file, wherever the command is given."""
    monkeypatch.chdir(folder.parent)
    done = CliRunner().invoke(
        app, ["train", "--resume", str(run[0]), "--set", "trainer.rollouts=3"]
    )
    assert done.exit_code == 0, done.output
    last = [line for line in lines(run[0] / "metrics.jsonl") if line["kind"] == "update"][-1]
    assert last["rollout"] == 3
    assert "clip/rare_frac" in last


def recipe(folder, loss):
    (folder / "wrong.toml").write_text(f'extends = "quickstart"\n[loss]\n{loss}\n')
    return str(folder / "wrong.toml")


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (
            'constraints = [{ kind = "my_rules.py:rare_tokens", leats = 0.1 }]',
            r"Unknown key loss\.constraints\.0\.leats in wrong\.toml \(did you mean least",
        ),
        (
            'constraints = [{ kind = "my_rules.py:rare_tokens", least = "few" }]',
            r"loss\.constraints\.0\.least = 'few' .* a number",
        ),
        ('constraints = ["my_rules.py:rare"]', "defines no function 'rare'"),
        ('constraints = ["our_rules.py:rare"]', r"there is no file 'our_rules\.py'"),
        ('constraints = ["my_rules.py:squared"]', "is a surrogate, not a constraint"),
        ('surrogate = "my_rules.py:by_entropy"', "is a constraint, not a surrogate"),
        ('surrogate = { kind = "my_rules.py:squared", epsilon = 0.0 }', "must be above 0, not 0"),
        ('terms = ["my_rules.py:rare_tokens"]', "is a constraint, not a term"),
        ('importance = "ppo_clip"', "is a surrogate, not an importance weight"),
    ],
)
def test_mistakes_are_one_sentence(folder, loss, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_recipe(recipe(folder, loss))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return inputs.mask", "returned Tensor, not a ConstraintOutput"),
        ("return ConstraintOutput({'mine': inputs.entropie})", "fails with AttributeError"),
        ("return ConstraintOutput({'my rule': inputs.mask})", "'my rule' is no name for a rule"),
    ],
)
def test_a_rule_that_fails_ends_the_run_before_it_samples(tmp_path, body, sentence, policy):
    code = "from erclip import ConstraintOutput\n\ndef broken():\n    return rule\n\n"
    (tmp_path / "broken.py").write_text(f"{code}def rule(inputs):\n    {body}\n")
    loss = {"constraints": [f"{tmp_path / 'broken.py'}:broken"]}
    with pytest.raises(UserError, match=sentence):
        Updater(policy, Config.model_validate({"loss": loss}))


def test_what_no_update_computes_is_refused(tmp_path, policy):
    code = "from erclip import Constraint, ConstraintOutput\n\nclass means(Constraint):\n"
    code += "    needs = frozenset({'critic_values'})\n\n    def __call__(self, inputs):\n"
    (tmp_path / "means.py").write_text(f"{code}        return ConstraintOutput()\n")
    loss = {"constraints": [f"{tmp_path / 'means.py'}:means"]}
    with pytest.raises(UserError, match=r"needs critic_values, which no update computes"):
        Updater(policy, Config.model_validate({"loss": loss}))


def test_settings_go_to_another_process():
    """As a study sends them to its workers; the sections of rules have no name to be found by."""
    config = Config.model_validate({"loss": {"constraints": ["shuffled_erc"], "terms": []}})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.loss.constraints[0].build() == config.loss.constraints[0].build()


def test_an_installed_package_brings_rules_by_name(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    point = EntryPoint("rare_tokens", "my_rules:rare_tokens", "erclip.rules")
    gone = EntryPoint("gone", "my_rules:gone", "erclip.rules")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point, gone])
    section_of.cache_clear()
    loss = {"constraints": [{"kind": "rare_tokens", "least": 0.2}]}
    (constraint,) = build_loss(Config.model_validate({"loss": loss}).loss).constraints
    assert repr(constraint) == "rare_tokens(least=0.2)"
    with pytest.raises(UserError, match=r"'gone' \(my_rules:gone\) cannot be imported"):
        load_recipe(recipe(folder, 'constraints = ["gone"]'))
    with pytest.raises(UserError, match="did you mean 'rare_tokens'"):
        load_recipe(recipe(folder, 'constraints = ["rare_token"]'))


def test_terms_and_an_importance_weight_are_rules_too():
    loss = {
        "importance": "truncated_importance",
        "terms": [{"kind": "kl_penalty", "weight": 0.1}],
        "positive_nll": 0.1,
    }
    config = Config.model_validate({"loss": loss})
    built = build_loss(config.loss)
    assert repr(built.importance) == "truncated_importance(cap=2.0)"
    assert [repr(t) for t in built.terms] == ["kl_penalty(weight=0.1)", "positive_nll(weight=0.1)"]
    assert Config.model_validate_json(json.dumps(config.model_dump(mode="json"))) == config


def test_a_switch_that_is_off_is_not_written_down():
    """An anchor at its default must not make an older run's settings another method."""
    loss = Config().loss.model_dump()
    assert loss["surrogate"] == {"kind": "ppo_clip", "low": 0.2, "high": 0.28, "dual": None}
    assert "terms" not in loss
    sampler = {"surrogate": {"kind": "ppo_clip", "anchor": "sampler"}}
    written = Config.model_validate({"loss": sampler}).loss.model_dump()
    assert written["surrogate"]["anchor"] == "sampler"
