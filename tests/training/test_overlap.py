"""The sampler in a process of its own: what it sends, new weights on the way, and every end."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import DynamicCache

from erclip.config import ModelConfig
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.sampler_process import SamplerLost
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.trainer import Trainer
from erclip.training.weight_handover import SharedWeights, trained

SHORT = [
    "rollout.prompts=8", "rollout.responses=4", "trainer.updates_per_rollout=4",
    "trainer.rollouts=4", "eval.prompts=8", "eval.responses=2", "trainer.learning_rate=1e-3",
    "rollout.staleness=2", "rollout.overlap=true", "rollout.dynamic_sampling=off",
    "checkpoint.every=1", "checkpoint.keep_last=9",
]  # fmt: skip


def lines(out, kind="rollout"):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def gone(pid):
    """Whether a process has ended, within a while."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class Overlapped(NamedTuple):
    out: Path
    versions: list[int]  # of the weights that drew each token that is saved before the first update
    sentence: str
    started: tuple[int, int]  # rollouts sampled and updates made where it went on
    ended: bool


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its sampler beside it, which is killed in the middle; then the rest of it."""
    out, said = tmp_path_factory.mktemp("overlap") / "out", []
    trainer = Trainer(load_recipe("quickstart", SHORT), out, log=said.append)
    assert "does not repeat itself bit for bit" in said[0]
    versions = first_versions(trainer, out.with_name("first"))
    pid, count = trainer.producer._process.pid, []

    def on_log(kind, rollout, metrics):
        count.append(kind)
        if count.count("update") == 5:
            os.kill(pid, signal.SIGKILL)
            count.append("update")

    trainer.observer = type("Observer", (), {"on_log": staticmethod(on_log)})
    with pytest.raises(SamplerLost) as lost:
        trainer.train()
    assert gone(pid)
    resumed = Trainer(resumed_recipe(out), out, resume=True)
    started = resumed.state.sampled, resumed.state.counters.updates
    pid = resumed.producer._process.pid
    resumed.train()
    return Overlapped(out, versions, str(lost.value), started, gone(pid))


def first_versions(trainer, folder):
    """Versions of the weights in a checkpoint with one rollout in its queue; it is moved away."""
    trainer.producer.update_weights(0)
    trainer.queue.fill()
    trainer.queue.receive(wait=True)
    trainer.save().rename(folder)
    lines = (folder / "rollout.jsonl").read_text().splitlines()
    samples = [sample for line in lines for sample in json.loads(line)["samples"]]
    return [version for sample in samples for version in sample["versions"]]


def test_a_sampler_that_is_killed_ends_the_run_in_one_sentence(run):
    """After a checkpoint, from which the run goes on."""
    out, _, sentence, (sampled, updates), ended = run
    assert sentence == (
        f"The sampler's process ended by SIGKILL; what it said is in {out / 'sampler.log'}; "
        f"go on with erclip train --resume {out}"
    )
    assert updates >= 5
    assert sampled >= 2
    assert ended
    assert (out / "sampler.log").read_text() == ""


def test_every_rollout_is_trained_on_once_and_none_is_older_than_asked(run):
    out, *_ = run
    rollouts = lines(out)
    assert [line["rollout"] for line in rollouts] == [1, 2, 3, 4]
    assert [line["update"] for line in lines(out, "update")] == list(range(1, 17))
    for number, line in enumerate(rollouts):
        assert line["staleness/max"] <= 4 * min(number, 2)
        assert 0 <= line["time/trainer_wait_frac"] <= 1
        assert 0 <= line["time/sampler_wait_frac"] <= 1
    assert rollouts[0]["sampler/kl"] < 1e-6
    assert rollouts[-1]["sampler/logprob_diff"] > 0
    assert len(lines(out, "eval")) == 2


def test_prompts_are_those_of_the_run_in_turns(run, tmp_path):
    out, *_ = run
    turns = load_recipe("quickstart", [*SHORT, "rollout.overlap=false", "rollout.staleness=0"])
    Trainer(turns, tmp_path / "turns").train()
    asked = [
        [json.loads(line)["prompt_id"] for line in (folder / "samples.jsonl").open()]
        for folder in (out, tmp_path / "turns")
    ]
    assert asked[0] == asked[1]


def test_versions_are_in_the_checkpoint(run):
    assert set(run.versions) == {0}


@pytest.fixture
def policies():
    old, new = load_policy(ModelConfig()), load_policy(ModelConfig())
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in new.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return old, new


@torch.no_grad()
def plain_logprobs(old, new, response, change):
    """The first `change` tokens by the old weights; the rest by the new ones on their cache."""
    cache = DynamicCache(config=old.model.config)
    tokens, found = [*response.prompt_ids], []
    for step, token in enumerate(response.token_ids):
        model = (old if step < change else new).model
        logits = model(input_ids=torch.tensor([tokens]), past_key_values=cache).logits[0, -1]
        found.append(torch.log_softmax(logits, -1)[token].item())
        tokens = [token]
    return found


@pytest.mark.parametrize("change", [0, 3, 99])
def test_new_weights_in_the_middle_of_responses(change, policies, countdown):
    """Log-probs are those of the weights that drew each token, on the keys and values there are."""
    old, new = policies
    follower, steps = load_policy(ModelConfig()), []

    def follow():
        steps.append(len(steps))
        if steps[-1] == change:
            follower.model.load_state_dict(new.model.state_dict())
        return 7 if steps[-1] < change else 8

    sampler = TransformersSampler(follower.model, follower.tokenizer, follow=follow)
    (responses,) = sampler.sample([countdown.train[0]], SamplingSettings(6, 12), [1])
    assert max(len(response.token_ids) for response in responses) > 4
    for response in responses:
        length = len(response.token_ids)
        assert response.versions == tuple(7 if i < change else 8 for i in range(length))
        expected = plain_logprobs(old, new, response, change)
        assert response.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_loss_can_end_where_new_weights_begin(policies, responses):
    (old, _), found = policies, []
    for number, response in enumerate(responses[0]):
        length = len(response.token_ids)
        versions = tuple(3 if i < 2 + number else 4 for i in range(length))
        response = type(response)(**{**vars(response), "versions": versions})
        found.append(Sample(response, Grade(True, None, "correct"), 1.0, 0.5))
    batch = make_batch(single_rows(found), pad_id=old.pad_id, device=old.device, one_version=True)
    spans = [min(2 + n, len(s.response.token_ids)) for n, s in enumerate(found)]
    assert batch.mask.sum(1).tolist() == spans
    assert batch.num_tokens == sum(spans)
    whole = make_batch(single_rows(found), pad_id=old.pad_id, device=old.device)
    cut, full = old.score(batch), old.score(whole)
    assert (cut.logprobs - full.logprobs)[batch.mask].abs().max() < 1e-5
    assert torch.equal(batch.mask & whole.mask, batch.mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_handed_over_whole(dtype, policies, tmp_path):
    old, new = (policy.model.to(dtype) for policy in policies)
    writer, reader = (SharedWeights(tmp_path, trained(model)) for model in (new, old))
    assert reader.version == -1
    writer.write(trained(new), 0)
    assert reader.version == 0
    assert reader.read(trained(old)) == 0
    assert all(
        torch.equal(old.state_dict()[name], value) for name, value in new.state_dict().items()
    )


@pytest.mark.slow
def test_what_the_sampler_cannot_do_is_said_in_its_own_words(tmp_path):
    settings = [*SHORT, "rollout.overlap={device='cuda:7'}"]
    with pytest.raises(
        UserError, match=r"model\.device = 'cuda:7', but this machine shows no CUDA"
    ):
        Trainer(load_recipe("quickstart", settings), tmp_path / "out").train()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_sampler_ends_with_its_trainer(number, tmp_path):
    """A signal leaves a checkpoint; after a kill the sampler notices by itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        trainer = Trainer(
            load_recipe("quickstart", [*SHORT, "trainer.rollouts=400"]), tmp_path / "out"
        )

        def on_log(kind, rollout, metrics):
            if kind == "rollout" and rollout == 1:
                os.write(write, b"%d" % trainer.producer._process.pid)

        trainer.observer = type("Observer", (), {"on_log": staticmethod(on_log)})
        try:
            trainer.train()
        finally:
            os._exit(5)
    pid = int(os.read(read, 20))
    os.kill(child, number)
    os.waitpid(child, 0)
    assert gone(pid)
    if number == signal.SIGTERM:
        resumed = Trainer(resumed_recipe(tmp_path / "out"), tmp_path / "out", resume=True)
        done = resumed.state.counters.rollouts
        resumed.producer.close()
        resumed.lock.release()
        assert done >= 1
        recipe = resumed_recipe(tmp_path / "out", [f"trainer.rollouts={done + 2}"])
        Trainer(recipe, tmp_path / "out", resume=True).train()
        numbers = [line["rollout"] for line in lines(tmp_path / "out")]
        assert numbers == list(range(1, done + 3))
