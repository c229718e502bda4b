"""Every shipped recipe parses; every mistake in one is a sentence with the key in it."""

from __future__ import annotations

import json

import pytest

from erclip.config import Config
from erclip.config.recipes import load_recipe, shipped_recipes
from erclip.config.section import Section
from erclip.errors import UserError
from erclip.training.updates import build_loss

PAPER = [name for name in shipped_recipes() if name.startswith("paper-")]


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_resolve(name):
    recipe = load_recipe(name)
    assert recipe.config.description
    assert callable(build_loss(recipe.config.loss))
    assert Config.model_validate(recipe.config.model_dump(mode="json")) == recipe.config


def test_the_papers_recipes_are_there():
    sizes, methods = ("1.5b", "7b"), ("dapo", "erc-dapo", "gppo", "erc-gppo")
    assert set(PAPER) == {f"paper-{size}-{method}" for size in sizes for method in methods}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_values(name):
    c = load_recipe(name).config
    trainer, rollout, sampler = c.trainer, c.rollout, c.sampler
    assert c.model.path.endswith("1.5B" if "1.5b" in name else "7B")
    assert c.data.path == "Kwai-Klear/KlearReasoner-MathSub-30K"
    assert (trainer.learning_rate, trainer.warmup_updates) == (1e-6, 10)
    assert (trainer.betas, trainer.weight_decay, trainer.grad_clip) == ((0.9, 0.999), 0.1, 1.0)
    assert (trainer.updates_per_rollout, trainer.epochs) == (8, 1)
    assert (rollout.prompts, rollout.responses) == (128, 8)
    assert rollout.prompts // trainer.updates_per_rollout == 16
    assert rollout.dynamic_sampling.kind == "oversample"
    assert rollout.prompts * rollout.dynamic_sampling.factor == 256
    assert (sampler.max_prompt_tokens, sampler.max_tokens) == (4096, 16_384)
    assert (sampler.temperature, sampler.top_p) == (1.0, 1.0)
    assert (c.eval.responses, c.eval.max_tokens) == (32, 32_768)
    assert (c.eval.temperature, c.eval.top_p) == (0.6, 0.95)
    assert (c.reward.correct, c.reward.wrong, c.reward.missing_think) == (1.0, -1.0, -0.5)
    assert c.reward.overlong is None
    assert c.data.after_think
    assert c.loss.positive_nll == 0.1
    high = 0.2 if "gppo" in name else 0.28
    kind = "gppo_clip" if "gppo" in name else "ppo_clip"
    assert c.loss.surrogate.model_dump() == {"kind": kind, "low": 0.2, "high": high, "dual": 10.0}
    band = {"low": 0.05, "high": 0.05, "rule": "paper", "min_entropy_change": 0, "softness": 0}
    erc = [{"kind": "entropy_ratio_clip", **band}] if "erc" in name else []
    assert [part.model_dump() for part in c.loss.constraints] == erc


def test_every_setting_says_what_it_is():
    """A section has a docstring, and every key whose name does not say it all has a description."""
    sections = [thing for thing in subclasses(Section) if thing.__module__.startswith("erclip.")]
    assert len(sections) > 30
    for section in sections:
        assert section.__doc__, section.__name__


def subclasses(of):
    return [of, *(thing for part in of.__subclasses__() for thing in subclasses(part))]


def test_a_resolved_recipe_comes_back_from_json():
    config = load_recipe("quickstart").config
    assert Config.model_validate_json(json.dumps(config.model_dump(mode="json"))) == config


def test_overrides_and_shorthand():
    recipe = load_recipe("quickstart", ["loss.surrogate=gppo_clip", "trainer.seed = 7"])
    assert recipe.config.loss.surrogate.model_dump() == {
        "kind": "gppo_clip",
        "low": 0.2,
        "high": 0.2,
        "dual": None,
    }
    assert recipe.config.trainer.seed == 7
    kept = load_recipe("quickstart", ["loss.surrogate.high=0.3"]).config.loss.surrogate
    assert (kept.kind, kept.high, kept.dual) == ("ppo_clip", 0.3, 10.0)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "trainer.rolouts=3",
            "Unknown key trainer.rolouts in quickstart.toml; did you mean rollouts",
        ),
        ("trainer.rollouts=many", "trainer.rollouts = 'many' .* valid integer"),
        ("trainer.rollouts=0", "trainer.rollouts = 0 .* greater than or equal to 1"),
        ("trainer.rollouts=2.5", "trainer.rollouts = 2.5"),
        ("model.path=3", "model.path = 3 .* valid string"),
        ("loss.surrogate=ppo", "'ppo_clip', 'gppo_clip'"),
        (
            "loss.surrogate.highh=1.0",
            "Unknown key loss.surrogate.highh in .*; did you mean high",
        ),
        ('loss.constraints=["random_mask"]', "rate is missing"),
        ("loss.surrogate.low=-0.1", r"low is a distance from 1 and must be at least 0, not -0\.1"),
        ("loss.surrogate.dual=1.1", r"dual .* must exceed 1 \+ high = 1\.28, not 1\.1"),
        ("loss.surrogate.low=wide", "loss.surrogate.low = 'wide' .* valid number"),
        ('loss.constraints=["entropy_ratio_clipp"]', "did you mean 'entropy_ratio_clip'"),
        ("loss.surrogate=random_mask", "random_mask is a constraint, not a surrogate"),
        ("loss.surrogate=3", "a rule is a name, or a table with a `kind`"),
        ("rollout.responses=1", "rollout.responses = 1"),
        ("trainer.updates_per_rollout=65", r"must not exceed rollout.prompts \(64\)"),
        ("reward.missing_think=-1.0", "no effect unless data.after_think"),
        ("reward.wrong=1.0", "nothing to learn"),
        ("reward.overlong={max_length=4, cache=5}", "must not exceed max_length"),
        ("rollouts", "not of the form key.path=value"),
        ("=3", "not of the form key.path=value"),
        ("trainer.rollouts=1\nfoo=2", "sets several keys"),
    ],
)
def test_mistakes_are_one_sentence(override, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_recipe("quickstart", [override])
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(UserError, match="Did you mean quickstart"):
        load_recipe("quikstart")


def test_recipes_extend_files_beside_them(tmp_path):
    (tmp_path / "base.toml").write_text('extends = "quickstart"\n[trainer]\nseed = 5\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\n[trainer]\nrollouts = 2\n')
    recipe = load_recipe(str(child))
    assert recipe.name == "child"
    assert (recipe.config.trainer.seed, recipe.config.trainer.rollouts) == (5, 2)
    assert recipe.config.loss.constraints[0].kind == "entropy_ratio_clip"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[trainer", "not valid TOML"),
        ("extends = 3", "must name one recipe"),
        ('extends = "loop.toml"', "extends itself"),
        ('extends = "gone"', "No recipe 'gone'"),
    ],
)
def test_broken_files_are_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "loop.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_recipe(str(path))
