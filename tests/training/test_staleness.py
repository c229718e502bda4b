"""Rollouts sampled ahead: the trainer against a plain loop, and staleness 0 against the past."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from erclip.config import Config, ModelConfig
from erclip.config.recipes import load_recipe
from erclip.seeds import derive_seed, prompt_seeds
from erclip.tasks import load_task
from erclip.training.policy import load_policy
from erclip.training.rollouts import PromptStream
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.trainer import Trainer

GOLDEN = Path(__file__).with_name("golden") / "in_turns.jsonl"
PROMPTS, RESPONSES, UPDATES, ROLLOUTS, RATE, CAP = 6, 4, 3, 5, 3e-4, 1.05
SMALL = [
    f"rollout.prompts={PROMPTS}", f"rollout.responses={RESPONSES}",
    f"trainer.updates_per_rollout={UPDATES}", f"trainer.rollouts={ROLLOUTS}",
    f"trainer.learning_rate={RATE}", "trainer.warmup_updates=0", "trainer.weight_decay=0.1",
    "rollout.dynamic_sampling=off", "eval.prompts=4", "loss.surrogate={kind='ppo_clip'}",
    f"loss.importance={{kind='truncated_importance', cap={CAP}}}",
]  # fmt: skip


def train(out, *overrides):
    trainer = Trainer(load_recipe("quickstart", list(overrides)), out)
    trainer.train()
    return trainer


def lines(out, name="metrics.jsonl", kind=None):
    found = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return [line for line in found if kind in (None, line.get("kind"))]


def timeless(metrics):
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in metrics]


def logprobs_and_entropies(model, response):
    """One response alone, from all of its logits."""
    ids = torch.tensor([[*response.prompt_ids, *response.token_ids]])
    logits = model(input_ids=ids).logits[0, len(response.prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits, -1)
    own = logprobs.gather(1, torch.tensor(response.token_ids)[:, None]).squeeze(1)
    return own, -(logprobs.exp() * logprobs).sum(1)


def plain_rollout(model, tokenizer, task, stream, number):
    """(response, advantage) of every response, by group."""
    seed = derive_seed(0, "rollout", number)
    groups = TransformersSampler(model, tokenizer).sample(
        stream.take(PROMPTS), SamplingSettings(RESPONSES, 24), prompt_seeds(PROMPTS, seed, 0)
    )
    graded = []
    for group in groups:
        rewards = torch.tensor([1.0 if g.correct else 0.0 for g in task.grade(group)])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        graded.append(list(zip(group, advantages.tolist(), strict=True)))
    random.Random(seed).shuffle(graded)
    return graded


def plain_loss(model, old, samples):
    """PPO-clip with clip-higher, ERC and truncated importance, token mean, one response a time."""
    objective, count = torch.zeros(()), 0
    for response, advantage in samples:
        new, entropies = logprobs_and_entropies(model, response)
        with torch.no_grad():
            before, old_entropies = logprobs_and_entropies(old, response)
            weights = (before - torch.tensor(response.logprobs)).exp().clamp(max=CAP)
            rho = (entropies + 1e-8) / (old_entropies + 1e-8)
            kept = (rho > 0.95) & (rho < 1.05)
        ratio = (new - before).exp()
        own = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage) * weights
        objective = objective + torch.where(kept, own, own.detach()).sum()
        count += len(response.token_ids)
    return -objective / count


def plain_loop(staleness, old_policy):
    """Weights after every rollout, from the definition: history[n] are those after rollout n."""
    policy, task = load_policy(ModelConfig()), load_task("countdown")
    model, stream = policy.model, PromptStream(task.train, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    history, losses = [copy.deepcopy(model)], []
    for number in range(1, ROLLOUTS + 1):
        sampler = history[max(0, number - 1 - staleness)]
        old = sampler if old_policy == "sampled" else history[-1]
        groups = plain_rollout(sampler, policy.tokenizer, task, stream, number)
        for update in range(UPDATES):
            mini = groups[2 * update : 2 * update + 2]
            loss = plain_loss(model, old, [sample for group in mini for sample in group])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        history.append(copy.deepcopy(model))
    return model.state_dict(), losses


RUNS = {
    "golden": [],
    "in turns": ["rollout.old_policy=sampled"],
    "recomputed": ["rollout.staleness=2"],
    "sampled": ["rollout.staleness=2", "rollout.old_policy=sampled"],
}


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """What "old" may be, two rollouts ahead, and the same in turns."""
    folder = tmp_path_factory.mktemp("ahead")
    return {name: train(folder / name, *SMALL, *settings) for name, settings in RUNS.items()}


@pytest.fixture
def ahead(trainers):
    """Their folders, by name, below this one."""
    return trainers["golden"].run.path.parent


@pytest.mark.parametrize(
    ("name", "staleness", "old_policy"),
    [("golden", 0, "recomputed"), ("recomputed", 2, "recomputed"), ("sampled", 2, "sampled")],
)
def test_the_trainer_does_what_a_plain_loop_does(name, staleness, old_policy, trainers, ahead):
    trainer = trainers[name]
    weights, losses = plain_loop(staleness, old_policy)
    logged = [line["loss/policy"] for line in lines(ahead / name, kind="update")]
    assert logged == pytest.approx(losses, abs=1e-4)  # another k, or another "old": 3e-3 or more
    begun = load_policy(ModelConfig()).model.state_dict()
    got = trainer.policy.model.state_dict()
    moved = torch.cat([(weights[name] - begun[name]).flatten() for name in weights]).norm()
    apart = torch.cat([(weights[name] - got[name]).flatten() for name in weights]).norm()
    assert apart < 0.01 * moved  # another k, or another "old": 0.1 or more


def test_staleness_is_counted_in_updates(ahead):
    for name in ("recomputed", "sampled"):
        rollouts = lines(ahead / name, kind="rollout")
        assert [line["staleness/mean"] for line in rollouts] == [0, 3, 6, 6, 6]
        assert [line["staleness/max"] for line in rollouts] == [0, 3, 6, 6, 6]


def test_prompts_draws_and_evaluation_stay_what_they_are(ahead):
    """The first rollout is that of the initial weights; prompts never change."""
    stale, turns = (lines(ahead / name, "samples.jsonl") for name in ("recomputed", "in turns"))
    asked = [[(line["rollout"], line["prompt_id"]) for line in found] for found in (stale, turns)]
    assert asked[0] == asked[1]
    said = [[line["response"] for line in found] for found in (stale, turns)]
    assert said[0][:16] == said[1][:16]
    assert said[0] != said[1]
    first = [timeless(lines(ahead / name, kind="eval"))[0] for name in ("recomputed", "in turns")]
    assert first[0] == first[1]


def test_what_old_means_shows_in_the_first_update_of_a_rollout(ahead):
    """Recomputed, every ratio is 1 and importance bridges the rest; sampled, it is the reverse."""
    for name, own, bridge in (("recomputed", 0.0, 1.0), ("sampled", 1.0, 0.0)):
        first = [u for u in lines(ahead / name, kind="update") if u["update_in_rollout"] == 1]
        rollouts = lines(ahead / name, kind="rollout")
        assert [u["policy/kl_old"] > 0 for u in first] == [False, *[own > 0] * 4]
        assert [r["sampler/kl"] > 1e-6 for r in rollouts] == [False, *[bridge > 0] * 4]
        assert all(u["staleness/kl"] > 1e-6 for u in first[1:])
        assert all(0.5 < u["staleness/effective_frac"] < 1 for u in first[1:])
        assert [("erc/noise_frac" in r) for r in rollouts] == [True, *[name == "recomputed"] * 4]


def test_in_turns_nothing_has_changed(ahead):
    """Numbers of the trainer before it could sample ahead; the same bits for both meanings of old.

    Recorded on an Intel Xeon with AVX-512, torch 2.13; elsewhere sums round otherwise.
    """
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    got = timeless(lines(ahead / "golden"))
    assert got == timeless(lines(ahead / "in turns"))
    assert len(got) == len(golden)
    for one, other in zip(got, golden, strict=True):
        assert one.keys() >= other.keys()
        for name in other.keys() - {"kind"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
    assert not any(name.startswith("staleness") for line in got for name in line)


def test_the_last_rollouts_are_not_sampled_past_the_end(tmp_path):
    train(tmp_path / "run", *SMALL, "rollout.staleness=9", "trainer.rollouts=2")
    rollouts = lines(tmp_path / "run", kind="rollout")
    assert [line["staleness/mean"] for line in rollouts] == [0, 3]
    state = tmp_path / "run" / "checkpoints" / "rollout_00002" / "state.json"
    assert json.loads(state.read_text())["prompts"] == 2 * PROMPTS


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"overlap": True}, "overlap needs staleness of at least 1"),
        ({"overlap": True, "staleness": 1, "old_policy": "sampled"}, 'use "recomputed"'),
        ({"staleness": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(rollout, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"rollout": rollout})
