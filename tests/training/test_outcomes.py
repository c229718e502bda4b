"""Every number of a set, worked by hand; and the same code in training."""

from __future__ import annotations

import pytest
import torch

from erclip.config import Config, EvalConfig
from erclip.machine.distributed import World
from erclip.records import Prompt, Response
from erclip.runs.work import Work
from erclip.seeds import prompt_seeds
from erclip.statistics import mean_interval
from erclip.tasks.base import Task
from erclip.tasks.countdown import Problem, grade
from erclip.training.held_out import evaluate, evaluation_settings, greedy_settings
from erclip.training.outcomes import Outcome, answer_key, summarise
from erclip.training.producers import evaluate_held_out
from erclip.training.sampling import SamplingSettings, TransformersSampler

RIGHT = Outcome(True, "18", "correct", False, 10, 0.5)
SAME = Outcome(True, "18.0", "correct", False, 20, 0.25)
WRONG = Outcome(False, "7", "wrong", False, 30, 0.1)
CUT = Outcome(False, None, "truncated", True, 40, 1.0)


def test_a_set_by_hand():
    numbers = summarise([[RIGHT, SAME, WRONG, CUT], [WRONG, WRONG, RIGHT, CUT]])
    assert numbers == {
        "problems": 2,
        "k": 4,
        "avg_at_k": mean_interval([0.5, 0.25]).as_json(),
        "pass_at": pytest.approx({"1": 3 / 8, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0}),
        "maj_at_k": 0.5,
        "truncated_frac": 0.25,
        "no_answer_frac": 0.25,
        "response_length": pytest.approx((100 + 110) / 8),
        "entropy": pytest.approx((5 + 5 + 3 + 40 + 3 + 3 + 5 + 40) / 210),
        "reasons": {"correct": 3, "wrong": 3, "truncated": 2},
    }


def test_k_copies_of_a_response_are_no_more_evidence_than_one():
    once = summarise([[RIGHT], [WRONG], [WRONG]])
    often = summarise([[RIGHT] * 32, [WRONG] * 32, [WRONG] * 32])
    assert once["avg_at_k"] == often["avg_at_k"]


def test_a_problem_may_have_more_responses_than_another():
    uneven = summarise([[RIGHT, WRONG, RIGHT, RIGHT], [WRONG, RIGHT]])
    assert (uneven["problems"], uneven["k"]) == (2, 2)
    assert uneven["avg_at_k"] == mean_interval([0.75, 0.5]).as_json()
    assert uneven["pass_at"] == pytest.approx({"1": 0.625, "2": 1.0})


def test_without_entropies_there_is_no_mean_of_them():
    assert summarise([[Outcome(True, "1", "correct", False, 3)]])["entropy"] is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,200", "1200", True),
        ("$18", "18.0", True),
        (r"\$18", "18", True),
        ("1/2", "0.5", True),
        ("x + 1", "x+1", True),
        (r"\dfrac{x}{2}", r"\frac x2", True),
        ("1{,}000", "1000", True),
        ("18", "19", False),
        ("(1,2)", "(12)", False),
        ("1,2", "12", False),
        ("0.5", r"\frac12", True),
        ("1/2 3", "1/23", False),
        ("5 cm", "5", True),
        ("Yes", r"\text{yes}", False),
        ("1/0", "0", False),
        ("9" * 200, "9" * 201, False),
        ("1e999999999", "0", False),
    ],
)
def test_answers_that_share_a_vote(one, other, same):
    assert (answer_key(one) == answer_key(other)) == same


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_answer_is_no_vote(nothing):
    assert answer_key(nothing) is None


class Scripted:
    """A sampler that says what it is told, and remembers what it was asked."""

    def __init__(self, texts):
        self.texts = texts

    def sample(self, prompts, settings, seeds):
        self.asked = (settings, seeds)
        return [
            [
                Response(p, (1,), (2,) * len(text), text, text.endswith("="), (0.0,) * len(text))
                for text in self.texts
            ]
            for p in prompts
        ]


def test_metrics_during_training():
    prompts = [
        Prompt(str(n), ({"role": "user", "content": ""},), Problem((2, n), 6)) for n in (3, 5)
    ]
    sampler = Scripted(["2*3=6", "2+3="])
    config = Config(eval=EvalConfig(responses=2, max_tokens=9, temperature=0.5, top_p=0.9))
    metrics = evaluate(
        Task("toy", prompts, prompts, grade), prompts, sampler, evaluation_settings(config), seed=7
    )
    low, high = mean_interval([0.5, 0.0])[1:3]
    assert metrics == {
        "eval/toy/avg_at_2": 0.25,
        "eval/toy/avg_at_2_low": low,
        "eval/toy/avg_at_2_high": high,
        "eval/toy/pass_at_2": 0.5,
        "eval/toy/response_length": 4.5,
        "eval/toy/truncated_frac": 0.5,
    }
    settings, seeds = sampler.asked
    assert (settings.responses, settings.max_tokens, settings.temperature) == (2, 9, 0.5)
    assert (settings.top_p, seeds) == (0.9, prompt_seeds(len(prompts), 7))


def test_the_likeliest_responses_are_one_more_set():
    prompts = [Prompt("3", ({"role": "user", "content": ""},), Problem((2, 3), 6))]
    sampler = Scripted(["2*3=6", "2*3=6"])
    config = Config(eval=EvalConfig(responses=2, top_p=0.9, greedy=True))
    task = Task("toy", prompts, prompts, grade)
    metrics = evaluate_held_out(task, sampler, config, World(), Work())
    assert metrics["eval/toy-greedy/avg_at_1"] == metrics["eval/toy/avg_at_2"] == 1.0
    settings, _ = sampler.asked
    assert (settings.responses, settings.top_p) == (1, 1.0)
    without = config.model_copy(update={"eval": EvalConfig(responses=2)})
    assert set(evaluate_held_out(task, sampler, without, World(), Work())) < set(metrics)


def test_greedy_settings_draw_the_likeliest_tokens(policy, countdown):
    sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=4)
    settings = greedy_settings(SamplingSettings(4, 24))
    for (response,) in sampler.sample(countdown.test[:12], settings, range(12)):
        ids = torch.tensor([response.prompt_ids])
        out = policy.model.generate(ids, do_sample=False, max_new_tokens=24)
        assert response.token_ids == tuple(out[0, ids.shape[1] :].tolist())
