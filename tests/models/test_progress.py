"""A run that trains nothing says so, in its first rollout and as its last word."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from erclip.config import Config, ModelConfig
from erclip.config.recipes import Recipe
from erclip.errors import UserError
from erclip.launch import run_training
from erclip.records import Grade, Prompt
from erclip.runs.rollout_words import why_nothing_learned
from erclip.tasks import Task
from erclip.training.prepare import load_trainable
from erclip.training.rollouts import teaches

SMALL = {
    "rollout": {"prompts": 2, "responses": 2},
    "sampler": {"max_tokens": 24},
    "trainer": {"rollouts": 2, "updates_per_rollout": 1},
    "eval": {"prompts": 1, "responses": 1},
}


@pytest.mark.parametrize(
    ("metrics", "updates", "reason"),
    [
        ({"train/truncated_frac": 1.0}, [], "every response was cut"),
        ({"train/groups_kept_frac": 0.0, "train/accuracy": 1.0}, [], "every response was right"),
        ({"train/groups_kept_frac": 0.0, "train/accuracy": 0.5}, [], "in no group did"),
        ({"train/groups_kept_frac": 0.5}, [{"grad/norm": float("nan")}], "zero or not finite"),
        ({"train/groups_kept_frac": 0.0, "train/accuracy": 0.0}, [{"grad/norm": 0.0}], "no resp"),
    ],
)
def test_why(metrics, updates, reason):
    found = why_nothing_learned(metrics, updates)
    assert found is not None
    assert reason in found
    assert why_nothing_learned(metrics, [*updates, {"grad/norm": 0.1}]) is None


def test_a_run_of_dead_groups_is_told(tmp_path):
    function = tmp_path / "r.py"
    function.write_text("def same(response, grade):\n    return 0.7\n")
    config = Config.model_validate({**SMALL, "reward": {"function": f"{function}:same"}})
    console = Console(record=True, width=200)
    run_training(Recipe("dead", config), tmp_path / "run", console, resume=False)
    said = console.export_text()
    assert "rollout 1 trained nothing: " in said
    assert "Nothing was learned: 100 % of groups had equal rewards" in said.splitlines()[-1]


def test_prompts_that_leave_no_room_are_refused():
    """The embedded model has a context of 64."""
    long = Prompt("long", ({"role": "user", "content": "1" * 70},), None)
    task = Task("t", [long], [], lambda responses: [Grade(False, None, "wrong")] * len(responses))
    with pytest.raises(UserError, match="leave long prompts out"):
        load_trainable(Config(model=ModelConfig()), task, print, seed=0, checkpoint=None)


def test_a_group_without_a_right_answer_teaches_nothing(responses):
    from erclip.records import Group, Sample

    def group(*graded):
        return Group(
            tuple(
                Sample(response, Grade(right, None, "wrong"), reward, 0.0)
                for response, (right, reward) in zip(responses[0], graded, strict=False)
            )
        )

    unfinished = group((False, -1.0), (False, -1.0), (False, -0.5))
    mixed = group((False, -1.0), (True, 1.0))
    equal = group((False, -0.5), (True, -0.5))
    default, by_reward = Config(), Config.model_validate({"rollout": {"keep": "reward"}})
    assert [teaches(g, default) for g in (unfinished, mixed, equal)] == [False, True, False]
    assert [teaches(g, by_reward) for g in (unfinished, mixed, equal)] == [True, True, False]
    own = Config.model_validate({"reward": {"function": f"{Path(__file__)}:none"}})
    assert teaches(unfinished, own)
