"""STUDY.toml: every mistake is one sentence, every cell gets the settings that it names."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from erclip.config import Config
from erclip.config.recipes import read_table
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response
from erclip.study.design import Cell, on_policy, read_study, settings_hash
from erclip.study.outcomes import number
from erclip.study.rows import Results
from erclip.tasks import load_task

ROOT = Path(__file__).parents[2]

BASIC = """
seeds = [0, 1]
[base]
trainer = { rollouts = 3 }
loss = { constraints = [] }
[grid]
"trainer.learning_rate" = [1e-4, 3e-4]
[methods.DAPO]
[methods.ERC]
against = "DAPO"
loss = { constraints = ["entropy_ratio_clip"] }
[methods.random]
against = "DAPO"
mask_like = "ERC"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_method_gets_every_point_with_every_seed(tmp_path):
    study = read_study(write(tmp_path, BASIC))
    cells = study.cells()
    assert len(cells) == len(set(cells)) == 2 * 3 * 2
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6  # whole comparisons come first
    config = study.config(Cell("ERC", (("learning_rate", 3e-4),), 1))
    assert (config.trainer.learning_rate, config.trainer.seed) == (3e-4, 1)
    assert config.trainer.rollouts == 3
    assert [part.kind for part in config.loss.constraints] == ["entropy_ratio_clip"]
    assert study.config(Cell("DAPO", (("learning_rate", 3e-4),), 1)).loss.constraints == ()


def test_a_random_mask_copies_the_share_of_its_own_seed_and_setting(tmp_path):
    study = read_study(write(tmp_path, BASIC))
    cell = Cell("random", (("learning_rate", 1e-4),), 1)
    assert study.source(cell) == Cell("ERC", (("learning_rate", 1e-4),), 1)
    (mask,) = study.config(cell, mask_rate=0.17).loss.constraints
    assert mask.model_dump() == {"kind": "random_mask", "rate": 0.17}


def test_on_policy_makes_as_many_updates_of_as_many_responses():
    table = {
        "rollout": {"prompts": 64},
        "trainer": {"rollouts": 40, "updates_per_rollout": 32},
        "eval": {"every": 10},
    }
    changed = on_policy(Config.model_validate(table))
    assert changed.rollout.prompts == 2
    assert changed.trainer.rollouts == 40 * 32
    assert changed.trainer.updates_per_rollout == 1
    assert changed.eval.every == 320
    assert changed.trainer.learning_rate == Config().trainer.learning_rate


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("seeds = [0, 1]", "seeds = []"), "seeds"),
        (("seeds = [0, 1]", "seeds = [0]\nrecipes = 'x'"), "did you mean recipe?"),
        (('"trainer.learning_rate"', '"trainer.learning_rat"'), "did you mean learning_rate?"),
        (('against = "DAPO"\nloss', 'against = "dapo"\nloss'), "no other method"),
        (('mask_like = "ERC"', 'mask_like = "random"'), "no other method"),
        (('mask_like = "ERC"', "on_policy = 1"), "true, false or"),
        (("[methods.DAPO]", "[methods.DAPO]\ntrainer = { learning_rate = 1.0 }"), "grid has it"),
        (('["entropy_ratio_clip"]', '["entropy_clip"]'), "mine, method ERC"),
        (("seeds = [0, 1]", "seeds = [0, 1]\ntuning_seeds = [1]"), "a seed stands twice"),
        (("seeds = [0, 1]", 'seeds = [0]\noutcomes = ["speed"]'), "no outcome 'speed'; there are"),
        (("seeds = [0, 1]", 'seeds = [0]\noutcomes = ["kl_start"]'), "kl_start cannot lead"),
        (("[1e-4, 3e-4]", "[1e-4, 0.0001]"), "a value twice"),
        (("[1e-4, 3e-4]", "[[1e-4]]"), "make it a method or a regime"),
        (('against = "DAPO"\nloss', "rule = 1\nloss"), "a name for what it adds"),
        (("[grid]", '[frontier]\ngained = "a"\nkept = ["b"]\n[grid]'), "'a' is no regime"),
        (("[base]", '[base]\nunset = ["loss.kl"]'), "'loss.kl', which nothing before it sets"),
        (("[base]", '[base]\nunset = "loss"'), "must be a list of keys"),
        (("rollouts = 3", "rollouts = 0"), "of at least 1"),
        (("rollouts = 3", 'rollouts = "many"'), "a whole number"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, change, words):
    assert change[0] in BASIC
    with pytest.raises(UserError, match=words) as error:
        read_study(write(tmp_path, BASIC.replace(*change)))
    assert "\n" not in str(error.value)


def test_points_that_are_texts_are_run_and_named(tmp_path):
    grid = '"model.autocast" = ["bfloat16"]\n"model.gradient_checkpointing" = [true, false]'
    study = read_study(
        write(tmp_path, BASIC.replace('"trainer.learning_rate" = [1e-4, 3e-4]', grid))
    )
    names = {str(cell) for cell in study.cells() if cell.method == "DAPO" and cell.seed == 0}
    assert names == {
        f"DAPO, autocast bfloat16, gradient_checkpointing {on}, seed 0" for on in ("true", "false")
    }
    assert {study.config(cell, 0.5).model.autocast for cell in study.cells()} == {"bfloat16"}


def test_a_loss_out_of_bounds_is_refused_before_anything_runs(tmp_path):
    """What only the loss itself knows: no setting is wrong, two of them together are."""
    surrogate = 'surrogate = { kind = "ppo_clip", high = 0.28, dual = 1.1 }, constraints = ["e'
    text = BASIC.replace('constraints = ["e', surrogate)
    with pytest.raises(UserError, match=r"dual .* must exceed 1 \+ high = 1.28") as error:
        read_study(write(tmp_path, text))
    assert "method ERC" in str(error.value)


def test_a_loss_that_fails_is_refused_with_its_cell(tmp_path):
    """A rule of the user's own, which only a call shows to be wrong."""
    rule = tmp_path / "own.py"
    rule.write_text("def broken():\n    return lambda inputs: 1 / 0\n")
    text = BASIC.replace('constraints = ["entropy_ratio_clip"]', f'constraints = ["{rule}:broken"]')
    assert text != BASIC
    with pytest.raises(UserError, match="fails with ZeroDivisionError") as error:
        read_study(write(tmp_path, text))
    assert "ERC, learning_rate 0.0001, seed 0" in str(error.value)


def test_a_key_of_the_recipe_can_be_unset(tmp_path):
    """quickstart has a token budget and a dual clip; base takes the one away, ERC the other."""
    text = BASIC.replace("[base]", '[base]\nunset = ["trainer.token_budget"]').replace(
        'against = "DAPO"\nloss', 'against = "DAPO"\nunset = ["loss.surrogate"]\nloss'
    )
    study = read_study(write(tmp_path, text))
    point = (("learning_rate", 1e-4),)
    dapo, erc = (study.config(Cell(name, point, 0)) for name in ("DAPO", "ERC"))
    assert dapo.trainer.token_budget == erc.trainer.token_budget == Config().trainer.token_budget
    assert (dapo.loss.surrogate.dual, erc.loss.surrogate.dual) == (10.0, None)


def test_every_method_is_put_under_every_regime(tmp_path):
    regimes = "[regimes.clean]\n[regimes.short]\nsampler = { max_tokens = 12 }\n[grid]"
    study = read_study(write(tmp_path, BASIC.replace("[grid]", regimes)))
    assert len(study.cells()) == 2 * 3 * 2 * 2
    points = [(("regime", name), ("learning_rate", 3e-4)) for name in ("clean", "short")]
    lengths = [study.config(Cell("ERC", point, 1)).sampler.max_tokens for point in points]
    assert lengths == [24, 12]
    masked = Cell("random", points[1], 1)
    assert study.source(masked) == Cell("ERC", points[1], 1), "the mask copies its own regime"
    assert str(masked) == "random, short, learning_rate 0.0003, seed 1"


def test_on_policy_with_equal_updates_samples_again():
    table = {"rollout": {"prompts": 8}, "trainer": {"updates_per_rollout": 4}}
    config = Config.model_validate(table)
    assert on_policy(config).rollout.dynamic_sampling.kind == "drop"
    assert on_policy(config, how="equal_updates").rollout.dynamic_sampling.kind == "refill"
    off = Config.model_validate({**table, "rollout": {"prompts": 8, "dynamic_sampling": "off"}})
    assert on_policy(off, how="equal_updates").rollout.dynamic_sampling.kind == "off"


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No study"):
        read_study(tmp_path / "none.toml")


def test_on_policy_needs_prompts_that_divide():
    config = Config.model_validate(
        {"rollout": {"prompts": 10}, "trainer": {"updates_per_rollout": 4}}
    )
    with pytest.raises(UserError, match="multiple"):
        on_policy(config)


def test_the_hash_sees_what_changes_a_result_and_nothing_else():
    def of(**table) -> str:
        return settings_hash(Config.model_validate(table))

    assert of() == of(description="x", trainer={"saved_samples": 0}, trackers=["wandb"])
    distinct = [
        of(),
        of(trainer={"learning_rate": 2e-6}),
        of(trainer={"seed": 1}),
        of(loss={"surrogate": "gppo_clip"}),  # differs from the default in its kind alone
        of(loss={"surrogate": "gspo_clip"}),
        of(loss={"constraints": ["entropy_ratio_clip"]}),
        of(loss={"constraints": [{"kind": "entropy_ratio_clip", "rule": "directional"}]}),
        of(loss={"constraints": [{"kind": "random_mask", "rate": 0.1}]}),
        of(rollout={"dynamic_sampling": "off"}),
    ]
    assert len(set(distinct)) == len(distinct)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem
)
def test_shipped_studies(path):
    if missing := not_there_yet(path):
        pytest.skip(f"needs {', '.join(missing)}")
    study = read_study(path)
    assert study.description
    assert len(study.seeds) >= 3
    first = study.cells()[0]
    one_seed = [cell for cell in study.cells() if cell.seed == first.seed]
    seeds = [replace(first, seed=seed) for seed in (*study.file.tuning_seeds, *study.seeds)]
    assert len(study.cells()) == len(one_seed) * len(seeds)
    for cells in (one_seed, seeds):
        hashes = {settings_hash(study.config(cell, 0.5)) for cell in cells}
        assert len(hashes) == len(cells), "two methods are the same"


COMING = {  # word of a study file → settings that hold once there is such a thing
    "staleness": {"rollout": {"staleness": 1, "old_policy": "sampled"}},
    **{
        kind: {"loss": {"constraints": [{"kind": kind, **arguments}]}}
        for kind, arguments in {
            "dppo_tv": {"low": 0.2, "high": 0.2},
            "ipo": {"threshold": 0.1},
            "m2po": {"threshold": 0.04},
            "clip_cov": {},
            "top_entropy": {"fraction": 0.2},
            "sequence_mask": {"statistic": "geometric", "low": 0.99, "high": 1.01},
        }.items()
    },
    "drpo": {"loss": {"surrogate": {"kind": "drpo", "epsilon": 0.2}}},
}


def not_there_yet(path: Path) -> list[str]:
    """What a study file asks for that this version does not have; nothing once it has it."""
    text = json.dumps(read_table(str(path)))
    return [word for word in COMING if f'"{word}"' in text and not holds(COMING[word])]


def holds(table: dict) -> bool:
    try:
        Config.model_validate(table)
    except ValueError:
        return False
    return True


def test_only_what_is_coming_is_left_out(tmp_path):
    """A slip in a study file is no thing that is still to come."""
    path = write(tmp_path, BASIC.replace("entropy_ratio_clip", "entropy_ratio_clap"))
    assert not_there_yet(path) == []
    assert not_there_yet(write(tmp_path, BASIC)) == []


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "results").iterdir()))
def test_settings_of_recorded_rows_are_still_the_same(folder):
    """A row whose settings' hash has changed would be made again."""
    study = read_study(ROOT / "studies" / f"{folder}.toml")
    rows = Results(study, ROOT / "results" / folder).rows()
    assert rows
    for cell, row in rows.items():
        source = study.source(cell)
        rate = None if source is None else number(rows[source], "clip_erc_frac")
        assert row["settings"] == settings_hash(study.config(cell, rate)), cell


def test_rewards_that_move_are_opposites():
    script = runpy.run_path(str(ROOT / "studies" / "countdown_rewards.py"))
    functions = [script[name] for name in ("without_times", "with_times", "rare")]
    for text, right, values in (
        ("1+2=3;3+4=7", True, (1.0, 0.0, 0.0)),
        ("1*2=2;2+4=6", True, (0.0, 1.0, 0.0)),
        ("1*2=2;2*4=8", True, (0.0, 1.0, 1.0)),
        ("1*2=2;2*4=8", False, (0.0, 0.0, 0.0)),
        ("1+2=3;3+4=7", False, (0.0, 0.0, 0.0)),
    ):
        response = Response(Prompt("p", (), None), (1,), (2,), text, False, (0.0,))
        grade = Grade(right, None, "correct" if right else "wrong")
        assert tuple(function(response, grade) for function in functions) == values


def test_word_problems_are_right_and_the_same_every_time(tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[2] / "studies" / "word_problems.py"))
    for name in ("a", "b"):
        script["main"](tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    task = load_task(str(tmp_path / "a.jsonl"), last_number=True)
    assert len(task.train) + len(task.test) == script["ROWS"]
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    for row in rows:
        worked, _, answer = row["answer"].partition("\n#### ")
        sum_, _, result = worked.partition("=")
        assert result == answer
        assert eval(sum_) == int(answer)  # the script's own arithmetic, of digits and one operator
