"""Every shipped recipe parses; every mistake in one is a sentence with the key in it."""

from __future__ import annotations

import json

import pytest

from erclip.config import Config
from erclip.config.keys import keys
from erclip.config.other_names import KEYS, RULES
from erclip.config.recipes import load_recipe, shipped_recipes
from erclip.config.rules import built_in
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


@pytest.mark.parametrize(
    "loss",
    [
        {"surrogate": {"kind": "ppo_clip", "high": float("inf")}},
        {"terms": [{"kind": "adaptive_entropy", "target": 1, "step": 0.1, "low": 0, "high": 1}]},
        {"kl": {"weight": 0.1, "corrected": True}},
    ],
    ids=["an infinite bound", "a term without a weight", "a corrected penalty"],
)
def test_a_loss_comes_back_from_json(loss):
    config = Config.model_validate({"loss": loss})
    again = json.loads(json.dumps(config.model_dump(mode="json")))
    assert Config.model_validate(again) == config
    assert build_loss(Config.model_validate(again).loss) == build_loss(config.loss)


def test_a_penalty_that_is_not_corrected_is_written_as_ever():
    written = Config.model_validate({"loss": {"kl": {"weight": 0.1}}}).model_dump(mode="json")
    assert written["loss"]["kl"] == {"weight": 0.1, "estimator": "k3", "model": None}


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
    sections = [
        thing
        for thing in subclasses(Section)
        if thing.__module__.startswith("erclip.") and ".py:" not in thing.__name__  # other tests'
    ]
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
            r"Unknown key trainer.rolouts in --set \(did you mean rollouts\?\)",
        ),
        ("trainer.rollouts=many", "trainer.rollouts = 'many' in --set must be a whole number"),
        ("trainer.rollouts=0", "trainer.rollouts = 0 .* a whole number of at least 1"),
        ("trainer.rollouts=2.5", "trainer.rollouts = 2.5"),
        ("trainer.rollouts=", "trainer.rollouts = '' .* a whole number"),
        ("model.path=3", "model.path = 3 .* a text"),
        ("trainer=3", "trainer = 3 .* a table"),
        ("trainer.betas=[0.9]", r"trainer.betas = \[0.9\] .* a list of two, each a number from 0"),
        ("trainer.betas=[0.9, 3.0]", "trainer.betas.1 = 3.0 .* from 0 to 1"),
        ("eval.max_tokens=0", r"eval.max_tokens = 0 .* at least 1 \(or left out\)"),
        ("rollout.keep=all", "rollout.keep = 'all' .* one of 'accuracy', 'reward'"),
        ("sampler=vlm", "sampler = 'vlm' .* one of transformers, vllm, vllm_server"),
        ("sampler.url='http://a'", "Unknown key sampler.url .*only with sampler.kind"),
        ("rollout.dynamic_sampling={max_rounds=3}", "needs a `kind`: drop, refill, oversample"),
        ("data.columns={ask='a'}", "data.columns = 'ask' .* a table, its keys"),
        ("data.answer_formats=[]", "a list of at least one, each one of 'boxed'"),
        ("reward.function=mine", 'of the form "file.py:name"'),
        ("loss.surrogate=grpo", "grpo is called ppo_clip .* here"),
        ("loss.surrogate=GSPO", "GSPO is called gspo_clip here"),
        ('loss.constraints=["erc"]', "erc is called entropy_ratio_clip here"),
        (
            "learning_rate=1e-5",
            r"Unknown key learning_rate in --set \(.* belongs in \[trainer\]\)",
        ),
        ("model.learning_rate=1e-5", r"learning_rate belongs in \[trainer\]"),
        ("trainer.lr=1e-5", "here it is trainer.learning_rate"),
        ("num_generations=8", "here it is rollout.responses"),
        (
            "loss.surrogate.highh=1.0",
            r"Unknown key loss.surrogate.highh .*\(did you mean high\?\)",
        ),
        ('loss.constraints=["random_mask"]', "rate is missing"),
        ("loss.surrogate.low=-0.1", r"low is a distance from 1 and must be at least 0, not -0\.1"),
        ("loss.surrogate.dual=1.1", r"dual .* must exceed 1 \+ high = 1\.28, not 1\.1"),
        ("loss.surrogate.low=wide", "loss.surrogate.low = 'wide' .* a number"),
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


PYDANTIC = ("Input should", "validation error", "type=", "valid ", "None", "tuple", "discriminator")


def wrong_values():
    """For every key of the settings, values that hardly any of them may have."""
    for key in keys():
        if not key.path.startswith("trackers."):
            for value in ("-7", "[[3]]", '{ odd = "x" }', '"\u2713"'):
                yield f"{key.path}={value}"


def test_no_error_is_in_pydantics_words():
    refused = 0
    for override in wrong_values():
        try:
            load_recipe("quickstart", [override])
        except UserError as error:
            refused += 1
            said = str(error)
            assert not any(words in said for words in PYDANTIC), said
            assert "quickstart.toml" not in said, said
            assert override.partition(".")[0].partition("=")[0] in said, said
    assert refused > 200


def test_every_unknown_key_is_named_with_where_it_is_from(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('lr = 1\n[model]\npth = "x"\n[trainer]\nrolouts = 3\n')
    with pytest.raises(UserError) as error:
        load_recipe(str(file), ["trainer.sed=1"])
    assert str(error.value) == (
        "Unknown keys model.pth in mine.toml (did you mean path?), trainer.rolouts in mine.toml "
        "(did you mean rollouts?), trainer.sed in --set (did you mean seed?), lr in mine.toml "
        "(here it is trainer.learning_rate)."
    )


def test_every_name_of_another_system_leads_to_a_key_or_a_rule():
    known = {key.path for key in keys()}
    rules = {"low", "high"}
    assert {path for path in KEYS.values() if path.rpartition(".")[2] not in rules} <= known
    assert {rule.split()[0] for rule in RULES.values()} <= set(built_in())


def test_an_unknown_recipe_gets_a_hint(tmp_path):
    with pytest.raises(UserError, match="Did you mean quickstart"):
        load_recipe("quikstart")
    with pytest.raises(UserError, match=r"name of a method, .* here it is ppo_clip"):
        load_recipe("grpo")
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"erclip train --resume {tmp_path}"):
        load_recipe(str(tmp_path))
    for name, text in (("recipe.toml", '\n {"model": {}}'), ("recipe.json", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="JSON, but a recipe is TOML"):
            load_recipe(str(tmp_path / name))


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
