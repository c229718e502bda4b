"""The sampler's likeliest tokens on their way to the loss: drawn, kept, batched, scored."""

from __future__ import annotations

import json
import math
from itertools import chain

import numpy as np
import pytest
import torch

from erclip import Term, policy_loss, reinforce
from erclip.config import Config
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.records import Grade, Group, Sample, TopTokens
from erclip.training.batches import make_batch
from erclip.training.checkpoints.rollout_files import group_line, read_group
from erclip.training.packing import single_rows
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.sampling.draw import nucleus
from erclip.training.sampling.vllm_request import top_tokens
from erclip.training.trainer import Trainer
from erclip.training.updates import Updater, score_old

TOP = 5
SHORT = [
    "trainer.rollouts=2", "trainer.updates_per_rollout=2", "rollout.prompts=4",
    "rollout.responses=2", "rollout.dynamic_sampling=off", "eval.every=0", "eval.prompts=8",
    'loss.terms=[{kind="score_centering", top=5}]', "loss.constraints=[]",
]  # fmt: skip


def sample(policy, countdown, **settings):
    sampler = TransformersSampler(policy.model, policy.tokenizer)
    plan = SamplingSettings(2, 24, **settings)
    return sampler.sample(list(countdown.train[:6]), plan, range(6))


def samples(groups):
    return [Sample(r, Grade(False, None, "wrong"), 0.0, 1.0) for group in groups for r in group]


def arrays(response):
    shape = (len(response.token_ids), -1)
    ids = np.frombuffer(response.top.ids, np.int32).reshape(shape)
    return ids, np.frombuffer(response.top.logprobs, np.float32).reshape(shape)


def test_the_sampler_records_the_likeliest_tokens_only_if_asked(policy, countdown):
    plain = sample(policy, countdown, temperature=1.3)
    more = sample(policy, countdown, temperature=1.3, top=TOP)
    pairs = zip(chain.from_iterable(plain), chain.from_iterable(more), strict=True)
    for response, other in pairs:
        assert response.top is None
        assert (response.token_ids, response.logprobs) == (other.token_ids, other.logprobs)
        ids, logprobs = arrays(other)
        assert ids.shape == (len(other.token_ids), TOP)
        assert (np.diff(logprobs) <= 0).all()
        for row, values, token, drawn in zip(
            ids, logprobs, other.token_ids, other.logprobs, strict=True
        ):
            if token in row:
                assert values[list(row).index(token)] == pytest.approx(drawn, abs=1e-6)
            else:
                assert drawn <= values[-1]


def test_what_the_trainer_scores_is_what_the_sampler_saw(policy, countdown):
    """At equal weights the log-probs of all K tokens agree, place by place; elsewhere zeros."""
    batch = make_batch(
        single_rows(samples(sample(policy, countdown, top=TOP))),
        pad_id=policy.pad_id,
        device=policy.device,
    )
    scores = policy.score(batch, top=True)
    gap = (scores.top_logprobs - batch.sampler_top_logprobs)[batch.mask]
    assert gap.abs().max() < 2e-5
    assert not scores.top_logprobs[~batch.mask].any()
    assert policy.score(batch).top_logprobs is None
    policy.head = "logits"
    full = policy.score(batch, top=True)
    torch.testing.assert_close(full.top_logprobs, scores.top_logprobs, atol=2e-5, rtol=0)


def test_more_tokens_than_the_vocabulary_has_are_all_of_it(policy, countdown):
    response = sample(policy, countdown, top=10**4)[0][0]
    ids, logprobs = arrays(response)
    assert ids.shape[1] == policy.model.config.vocab_size
    assert np.exp(logprobs).sum(1) == pytest.approx(np.ones(len(ids)), abs=1e-5)


def test_a_response_without_them_stands_beside_one_with_them(policy, countdown):
    groups = [sample(policy, countdown)[0], sample(policy, countdown, top=TOP)[1]]
    batch = make_batch(single_rows(samples(groups)), pad_id=0, device=torch.device("cpu"))
    assert torch.isneginf(batch.sampler_top_logprobs[:2]).all()
    assert torch.isfinite(batch.sampler_top_logprobs[2:][batch.mask[2:]]).all()
    none = make_batch(single_rows(samples(groups[:1])), pad_id=0, device=torch.device("cpu"))
    assert none.top_ids is None
    assert none.sampler_top_logprobs is None


def test_a_checkpoint_and_another_process_get_them_back_bit_for_bit(policy, countdown):
    for settings in ({"top": TOP}, {"top_p": 0.8}, {}):
        group = Group(tuple(samples(sample(policy, countdown, **settings)[:1])))
        line = group_line(group)
        again = read_group(json.loads(json.dumps(line)), countdown.train[0])
        assert again == group
        assert ("top" in line["samples"][0]) == ("top" in settings)
        assert ("nucleus" in line["samples"][0]) == ("top_p" in settings)


def test_the_nucleus_is_measured_apart_from_the_log_probs(policy, countdown):
    """Its mass at every position, by the policy's own distribution; the log-probs are uncut."""
    responses = [r for group in sample(policy, countdown, top_p=0.7, top=10**4) for r in group]
    for response in responses:
        ids, logprobs = arrays(response)
        probs = torch.zeros(len(ids), policy.model.config.vocab_size, dtype=torch.float64)
        index = torch.from_numpy(ids.copy()).long()
        probs.scatter_(1, index, torch.from_numpy(logprobs.copy()).double().exp())
        mass = nucleus(probs, 0.7).sum(1)
        assert response.nucleus == pytest.approx(mass.mean().item(), abs=1e-5)
        assert (mass >= 0.7 - 1e-6).all()
    assert min(response.nucleus for response in responses) < 0.99
    assert sample(policy, countdown)[0][0].nucleus is None


def test_an_update_is_the_loss_of_the_whole_distribution(policy, countdown):
    """Over all of the vocabulary, against the sum written out; the policy has moved since."""
    settings = Config.model_validate(
        {"loss": {"terms": ["score_centering"], "surrogate": "reinforce", "constraints": []}}
    )
    batch = make_batch(
        single_rows(samples(sample(policy, countdown, top=10**4))),
        pad_id=policy.pad_id,
        device=policy.device,
    )
    scored = score_old(policy, batch)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.02)
    updater = Updater(policy, settings)
    new = updater.score(batch)
    out = updater.loss_fn(**updater.tensors(scored, new))
    p, q = new.top_logprobs.detach().double().exp(), batch.sampler_top_logprobs.double().exp()
    term = ((q - p) * new.top_logprobs.double()).sum(-1)[batch.mask].mean()
    plain = -(new.logprobs.double())[batch.mask].mean()
    assert out.loss.item() == pytest.approx((plain + term).item(), rel=1e-5)
    assert term.abs() > 1e-4


class entropy_reader(Term):
    """A term that looks at the mean slope."""

    needs = frozenset({"entropy_slope_means"})

    def __call__(self, inputs):
        assert inputs.entropy_slope_means is not None
        return inputs.entropy_slope_means + 0 * inputs.logprobs


def test_mean_slopes_reach_a_rule_that_needs_them_and_cost_nothing_else(policy, countdown):
    batch = make_batch(
        single_rows(samples(sample(policy, countdown))), pad_id=policy.pad_id, device=policy.device
    )
    updater = Updater(policy, Config())
    assert updater.score(batch).slope_means is None
    updater.loss_fn = policy_loss(reinforce(), terms=[entropy_reader()])
    new = updater.score(batch)
    out = updater.loss_fn(**updater.tensors(score_old(policy, batch), new))
    logits = policy.model(**batch.inputs).logits.flatten(0, 1)[batch.hidden_index].double()
    log_p = torch.log_softmax(logits, -1)
    entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    expected = (log_p.exp() ** 2 * (log_p + entropy)).sum(-1)
    found = out.terms["entropy_reader"][batch.mask].double()
    assert torch.allclose(found, expected, atol=1e-6)
    assert expected.abs().max() > 1e-2


def test_a_run_with_score_centering(tmp_path):
    """To the end, in turns; every update reports the cost, about 0 where nothing has moved."""
    Trainer(load_recipe("quickstart", SHORT), tmp_path / "run").train()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    costs = [row["loss/score_centering"] for row in rows if row["kind"] == "update"]
    assert len(costs) == 4
    assert all(math.isfinite(cost) for cost in costs)
    assert abs(costs[0]) < 1e-3


def test_a_cut_distribution_has_no_means(policy):
    with pytest.raises(UserError, match=r"sampler\.top_p = 0\.9 leaves some out; set it to 1"):
        Updater(policy, load_recipe("quickstart", [*SHORT, "sampler.top_p=0.9"]).config)


def test_vllms_dictionaries_are_the_same_record():
    """The drawn token is there beyond the count where it is not of the likeliest."""
    likely = [{7: -0.1, 3: -2.5, 9: -4.0}, {4: -0.7}]
    found = top_tokens(likely, 2)
    ids = np.array([[7, 3], [4, 0]], np.int32)
    logprobs = np.array([[-0.1, -2.5], [-0.7, -np.inf]], np.float32)
    assert found == TopTokens(ids.tobytes(), logprobs.tobytes())
