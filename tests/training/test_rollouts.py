"""Dynamic sampling, rewards and the prompt stream, with a scripted sampler and grader."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from erclip.config import Config, RewardConfig
from erclip.config.data import OverlongConfig
from erclip.errors import UserError
from erclip.records import Grade, Group, Prompt, Response, Sample
from erclip.tasks import Task
from erclip.training.advantages import group_advantages
from erclip.training.rewards import reward
from erclip.training.rollouts import PromptStream, Rollout, collect

PROMPTS = [Prompt(str(i), ({"role": "user", "content": str(i)},), i) for i in range(12)]


class ScriptedSampler:
    """Prompt i gets i % 3 == 0 equal responses, else one right and the rest wrong."""

    def __init__(self):
        self.calls = []

    def sample(self, prompts, settings, seeds):
        self.calls.append((len(prompts), tuple(seeds)))
        return [
            [
                Response(
                    p, (1,), (2, 3), "yes" if g == 0 or p.gold % 3 == 0 else "no", False, (0, 0)
                )
                for g in range(settings.responses)
            ]
            for p in prompts
        ]


def grade(responses):
    return [Grade(r.text == "yes", r.text, "correct") for r in responses]


TASK = Task("scripted", PROMPTS, PROMPTS, grade)


def run(dynamic_sampling, prompts=4, **reward_settings):
    config = Config.model_validate(
        {
            "rollout": {"prompts": prompts, "responses": 3, "dynamic_sampling": dynamic_sampling},
            "trainer": {"updates_per_rollout": 1},
            "reward": reward_settings,
        }
    )
    sampler = ScriptedSampler()
    return collect(PromptStream(PROMPTS, 0), TASK, sampler, config, 0), sampler


def finished(reward, *, truncated, tokens=1, nucleus=None):
    response = Response(
        PROMPTS[0], (1,), (2,) * tokens, "", truncated, (0.0,) * tokens, nucleus=nucleus
    )
    return Sample(response, Grade(False, None, "wrong"), reward, 0.0)


def test_the_reward_of_what_finished_and_the_nucleus_stand_beside_the_rest():
    one, two, three = (
        finished(1.0, truncated=False, nucleus=0.9),
        finished(0.2, truncated=False, tokens=3, nucleus=0.7),
        finished(-1.0, truncated=True),
    )
    metrics = Rollout(sampled=[Group((one, two, three))]).metrics()
    assert metrics["train/completed_reward"] == pytest.approx(0.6)
    assert metrics["train/reward"] == pytest.approx(0.2 / 3)
    assert metrics["sampler/nucleus_mass"] == pytest.approx((0.9 + 3 * 0.7) / 4)
    none = Rollout(sampled=[Group((three,))]).metrics()
    assert not {"train/completed_reward", "sampler/nucleus_mass"} & set(none)


def useful(groups):
    return [g for g in groups if len({s.reward for s in g.samples}) > 1]


def test_off_keeps_every_group():
    rollout, sampler = run("off")
    assert rollout.kept == rollout.sampled
    assert [size for size, _ in sampler.calls] == [4]


def test_drop_trains_on_what_is_left():
    rollout, sampler = run("drop", prompts=12)
    assert rollout.kept == useful(rollout.sampled)
    assert len(rollout.kept) == 8
    assert len(sampler.calls) == 1


def test_refill_samples_until_the_batch_is_full():
    rollout, sampler = run("refill")
    assert len(rollout.kept) == 4 == len(useful(rollout.kept))
    assert len(sampler.calls) >= 2
    seeds = [seed for _, seeds in sampler.calls for seed in seeds]
    assert len(set(seeds)) == len(seeds) == sum(count for count, _ in sampler.calls)


def test_refill_gives_up_after_its_rounds():
    rollout, sampler = run({"kind": "refill", "max_rounds": 2}, prompts=12)
    assert len(sampler.calls) == 2
    assert len(rollout.kept) == 12
    assert rollout.metrics()["train/groups_kept_frac"] == pytest.approx(8 / 12)


def test_oversample_asks_once_for_factor_times_the_prompts():
    rollout, sampler = run({"kind": "oversample", "factor": 2.0})
    assert [size for size, _ in sampler.calls] == [8]
    assert len(rollout.kept) == 4 == len(useful(rollout.kept))


def test_all_of_training_sees_the_flipped_verdict():
    """The reward, the verdict behind positive NLL and filters, and what the rollout reports."""
    rollout, _ = run("off", flip=1.0)
    plain, _ = run("off")
    samples, as_graded = (
        [sample for group in r.kept for sample in group.samples] for r in (rollout, plain)
    )
    assert [s.grade.correct for s in samples] == [not s.grade.correct for s in as_graded]
    assert [s.reward for s in samples] == [1.0 - s.reward for s in as_graded]
    seen, meant = (r.metrics()["train/accuracy"] for r in (rollout, plain))
    assert seen == pytest.approx(1 - meant)


def test_the_reward_in_force_is_that_of_the_streams_position(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("def fn(response, grade):\n    return 7.0\n")
    config = Config.model_validate(
        {
            "rollout": {"prompts": 4, "responses": 3, "dynamic_sampling": "off"},
            "trainer": {"updates_per_rollout": 1},
            "reward": {"later": {"after_prompts": 8, "function": f"{file}:fn"}},
        }
    )
    stream = PromptStream(PROMPTS, 0)

    def rewards():
        kept = collect(stream, TASK, ScriptedSampler(), config, 0).kept
        return {sample.reward for group in kept for sample in group.samples}

    assert [rewards() == {7.0} for _ in range(3)] == [False, False, True]
    stream.position = 8  # as a resumed run puts it
    assert rewards() == {7.0}


def test_metrics_count_everything_that_was_sampled():
    metrics = run("drop", prompts=12)[0].metrics()
    assert metrics["train/responses"] == 36
    assert metrics["train/accuracy"] == pytest.approx((4 * 3 + 8) / 36)
    assert metrics["train/response_length"] == 2


def test_the_stream_shows_each_prompt_once_per_pass():
    stream = PromptStream(PROMPTS, seed=5)
    taken = [p.id for _ in range(6) for p in stream.take(4)]
    assert Counter(taken[:12]) == Counter(taken[12:]) == Counter(p.id for p in PROMPTS)
    assert taken[:12] != taken[12:]
    resumed = PromptStream(PROMPTS, seed=5)
    resumed.position = 7
    assert [p.id for p in resumed.take(5)] == taken[7:12]


def test_a_task_without_prompts_is_an_error():
    with pytest.raises(UserError, match="no training prompts"):
        PromptStream([], seed=0)


def response(text="x", length=10):
    return Response(PROMPTS[0], (1,), (2,) * length, text, False, (0.0,) * length)


@pytest.mark.parametrize(
    ("text", "correct", "expected"),
    [("</think> 4", True, 1.0), ("</think> 5", False, -1.0), ("4", True, -0.5), ("5", False, -0.5)],
)
def test_the_papers_reward(text, correct, expected):
    config = RewardConfig(correct=1.0, wrong=-1.0, missing_think=-0.5)
    assert reward(response(text), Grade(correct, None, "wrong"), config) == expected


def test_overlong_punishment_is_added():
    config = RewardConfig(overlong=OverlongConfig(max_length=12, cache=4))
    assert reward(response(length=10), Grade(True, None, "correct"), config) == 0.5
    assert reward(response(length=13), Grade(False, None, "wrong"), config) == -1.0


@pytest.mark.parametrize("value", [0.1, 0.7, 7.3, 100.1, 999.9])
@pytest.mark.parametrize("size", [3, 7, 8, 16])
def test_equal_rewards_have_no_advantage_at_all(value, size):
    assert not group_advantages(torch.full((1, size), value)).any()
    assert not group_advantages(torch.full((1, size), value, dtype=torch.float64)).any()
