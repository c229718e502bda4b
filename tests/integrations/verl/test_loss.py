"""`ERCLoss` on a hand-made batch equals `erclip.losses` on the same numbers, token by token."""

from __future__ import annotations

import pickle

import pytest
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils import tensordict_utils as tu

from erclip.errors import UserError
from erclip.integrations.verl import loss as adapter
from erclip.integrations.verl.modes import MODES, loss_config
from erclip.runs.metrics import token_sums
from erclip.training.updates import build_loss

pytestmark = pytest.mark.verl

PROMPTS, RESPONSES = (3, 2, 5, 4), (4, 1, 3, 2)  # the last row is verl's padding: no valid token
N = sum(RESPONSES[:3])


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


class Batch:
    """Random rows around every bound; `model_output` covers prompt and response, as verl's does."""

    def __init__(self, seed=0):
        g = torch.Generator().manual_seed(seed)

        def rows(scale, offset=0.0):
            return [torch.randn(n, generator=g) * scale + offset for n in RESPONSES]

        self.old_logprobs = rows(0.3, -1.0)
        self.sampler_logprobs = [row - 0.1 for row in self.old_logprobs]
        steps = rows(0.3)
        steps[0][0] = 3.0  # r = 20: past the dual clip
        self.logprobs = [
            (old + step).requires_grad_()
            for old, step in zip(self.old_logprobs, steps, strict=True)
        ]
        self.old_entropies = [row.abs() + 0.1 for row in rows(1.0)]
        self.entropies = [
            old * (1 + change) for old, change in zip(self.old_entropies, rows(0.06), strict=True)
        ]
        self.slopes = rows(1.0)
        signs = (-1.0, 1.0, 0.7, 0.0)
        self.advantages = [torch.full((n,), a) for n, a in zip(RESPONSES, signs, strict=True)]
        self.mask = [torch.ones(n, dtype=torch.bool) for n in RESPONSES]
        self.mask[3][:] = False

    def model_output(self, rows=slice(None), junk=float("nan")):
        def full(values):
            parts = []
            for prompt, value in list(zip(PROMPTS, values, strict=True))[rows]:
                before = torch.full((prompt - 1,), junk)
                parts.append(torch.cat([before, value, torch.full((1,), junk)]))
            return nested(parts)

        return {
            "log_probs": full(self.logprobs),
            "entropy": full(self.entropies),
            "entropy_slopes": full(self.slopes),
        }

    def data(self, rows=slice(None), dp_size=1, **extra):
        fields = {
            "prompts": [torch.zeros(n, dtype=torch.long) for n in PROMPTS],
            "responses": [torch.zeros(n, dtype=torch.long) for n in RESPONSES],
            "response_mask": [m.long() for m in self.mask],
            "old_log_probs": self.old_logprobs,
            "advantages": self.advantages,
            "entropy": self.old_entropies,
            **extra,
        }
        chosen = {name: nested(value[rows]) for name, value in fields.items()}
        data = TensorDict(chosen, batch_size=len(PROMPTS[rows]))
        tu.assign_non_tensor(data, batch_num_tokens=N, dp_size=dp_size, global_batch_size=4)
        return data

    def ours(self, settings, advantages=None):
        """The same numbers through the core, with no verl in between."""
        self.leaf = padded(self.logprobs).detach().requires_grad_()
        self.dense_mask = padded(self.mask)
        out = build_loss(settings)(
            logprobs=self.leaf,
            old_logprobs=padded(self.old_logprobs),
            advantages=padded(self.advantages if advantages is None else advantages),
            mask=self.dense_mask,
            entropies=padded(self.entropies),
            old_entropies=padded(self.old_entropies),
            entropy_slopes=padded(self.slopes),
            sampler_logprobs=padded(self.sampler_logprobs),
            num_tokens=N,
        )
        out.loss.backward()
        return out

    def gradient(self):
        """d loss / d log π of the rows that went through verl."""
        return padded([torch.zeros_like(x) if x.grad is None else x.grad for x in self.logprobs])


@pytest.fixture(scope="module", autouse=True)
def _registered():
    adapter.register()


def value(metrics, name):
    return metrics[name].aggregate()


@pytest.mark.parametrize("mode", MODES)
def test_value_gradient_and_fractions_are_the_cores(mode, actor_config):
    settings = {"dual": 10.0} if MODES[mode].surrogate.endswith(("ppo_clip", "gppo_clip")) else {}
    config = actor_config(mode, **settings)
    batch = Batch()
    data = batch.data(rollout_log_probs=batch.sampler_logprobs)
    loss, metrics = adapter.ERCLoss(config)(batch.model_output(), data)
    loss.backward()
    ours = batch.ours(loss_config(config.policy_loss))
    torch.testing.assert_close(loss, ours.loss, rtol=0, atol=1e-7)
    torch.testing.assert_close(batch.gradient(), batch.leaf.grad, rtol=0, atol=1e-7)
    sums = token_sums(ours, padded(batch.entropies), batch.dense_mask)
    for name, total in sums.items():
        assert value(metrics, name) == pytest.approx(total.item() / N, abs=1e-7), name
    assert value(metrics, "actor/pg_loss") == pytest.approx(ours.loss.item(), abs=1e-7)
    fired = ours.erc_low.sum() + ours.erc_high.sum()
    assert (fired > 0) == MODES[mode].erc  # the batch reaches the branch it is there for
    if settings:
        assert ours.dual.sum() == 1


@pytest.mark.parametrize("settings", [{"erc_rule": "directional"}, {"min_entropy_change": 0.08}])
def test_rules_of_the_band_arrive(settings, actor_config):
    config = actor_config("erc_dapo", **settings)
    batch, plain = Batch(), Batch()
    loss, metrics = adapter.ERCLoss(config)(batch.model_output(), batch.data())
    loss.backward()
    ours = batch.ours(loss_config(config.policy_loss))
    torch.testing.assert_close(batch.gradient(), batch.leaf.grad, rtol=0, atol=1e-7)
    _, without = adapter.ERCLoss(actor_config("erc_dapo"))(plain.model_output(), plain.data())
    assert 0 < value(metrics, "clip/erc_frac") < value(without, "clip/erc_frac")
    assert value(metrics, "clip/erc_frac") * N == pytest.approx(
        (ours.erc_low | ours.erc_high).sum().item()
    )


@pytest.mark.parametrize("dp_size", [1, 2])
def test_micro_batches_and_ranks_add_up_to_the_whole(dp_size, actor_config):
    """One row per micro-batch, the last without a valid token; ranks as verl averages them."""
    loss_fn = adapter.ERCLoss(actor_config("erc_gppo"))
    batch, whole = Batch(), Batch()
    expected, expected_metrics = loss_fn(whole.model_output(), whole.data())
    expected.backward()
    total, sums = 0.0, {}
    for row in range(4):
        rows = slice(row, row + 1)
        loss, metrics = loss_fn(batch.model_output(rows), batch.data(rows, dp_size=dp_size))
        assert torch.isfinite(loss)
        (loss / dp_size).backward()
        total += loss.item() / dp_size
        for name in expected_metrics:
            sums[name] = sums.get(name, 0.0) + value(metrics, name) / dp_size
    assert total == pytest.approx(expected.item(), abs=1e-7)
    torch.testing.assert_close(batch.gradient(), whole.gradient(), rtol=0, atol=1e-7)
    for name in expected_metrics:
        assert sums[name] == pytest.approx(value(expected_metrics, name), rel=1e-6), name
    assert batch.gradient()[3].abs().sum() == 0


def test_a_mini_batch_without_any_token_is_zero(actor_config):
    batch = Batch()
    data = batch.data(slice(3, 4))
    tu.assign_non_tensor(data, batch_num_tokens=0)
    loss, metrics = adapter.ERCLoss(actor_config("erc_dapo"))(batch.model_output(slice(3, 4)), data)
    loss.backward()
    assert loss.item() == 0
    assert all(value(metrics, name) == 0 for name in metrics)


def test_importance_weights_scale_tokens(actor_config):
    config = actor_config("erc_dapo")
    batch = Batch()
    weights = [torch.linspace(0.5, 1.5, n) for n in RESPONSES]
    loss, _ = adapter.ERCLoss(config)(batch.model_output(), batch.data(rollout_is_weights=weights))
    loss.backward()
    scaled = [a * w for a, w in zip(batch.advantages, weights, strict=True)]
    ours = batch.ours(loss_config(config.policy_loss), advantages=scaled)
    torch.testing.assert_close(loss, ours.loss, rtol=0, atol=1e-7)
    torch.testing.assert_close(batch.gradient(), batch.leaf.grad, rtol=0, atol=1e-7)


def test_verls_kl_term_is_still_there(actor_config):
    batch, plain = Batch(), Batch()
    reference = [row + 0.1 for row in batch.old_logprobs]
    config = actor_config("erc_dapo", use_kl_loss=True, kl_loss_coef=0.5)
    loss, metrics = adapter.ERCLoss(config)(
        batch.model_output(), batch.data(ref_log_prob=reference)
    )
    without, _ = adapter.ERCLoss(actor_config("erc_dapo"))(plain.model_output(), plain.data())
    gap = padded(reference) - padded(batch.logprobs)
    kl = torch.where(padded(batch.mask), gap.exp() - gap - 1, 0.0).clamp(-10, 10).sum() / N
    assert loss.item() - without.item() == pytest.approx(0.5 * kl.item(), abs=1e-6)
    assert value(metrics, "kl_loss") == pytest.approx(kl.item(), abs=1e-6)


def test_positive_nll_counts_the_whole_mini_batch(actor_config):
    """Rows 1 and 2 have a score above 0; their four tokens share one denominator."""
    scores = [torch.full((n,), s) for n, s in zip(RESPONSES, (-1.0, 1.0, 0.5, 1.0), strict=True)]
    loss_fn = adapter.ERCLoss(actor_config("erc_dapo", positive_nll=0.5))
    whole = Batch().data(rm_scores=scores)
    loss_fn.prepare(whole, None)
    statistics = tu.get_non_tensor_data(whole, adapter.STATISTICS, None)
    plain, nll = adapter.ERCLoss(actor_config("erc_dapo")), 0.0
    for row in range(4):
        rows, batch = slice(row, row + 1), Batch()
        data = batch.data(rows, dp_size=2, rm_scores=scores)
        tu.assign_non_tensor(data, **{adapter.STATISTICS: statistics})
        loss, metrics = loss_fn(batch.model_output(rows), data)
        without, _ = plain(Batch().model_output(rows), Batch().data(rows, dp_size=2))
        nll += value(metrics, "loss/positive_nll") / 2
        assert loss.item() - without.item() == pytest.approx(
            0.5 * value(metrics, "loss/positive_nll"), abs=1e-6
        )
    batch = Batch()
    expected = -(batch.logprobs[1].sum() + batch.logprobs[2].sum()) / 4
    assert nll == pytest.approx(expected.item(), abs=1e-6)


def test_rules_over_the_mini_batch_and_against_the_sampler(actor_config):
    """Micro-batches of one row, with the statistics of all four and the sampler's log-probs."""
    table = {
        "surrogate": {"kind": "ppo_clip", "anchor": "sampler"},
        "constraints": [{"kind": "dppo_tv", "low": 0.05, "high": 0.05}, "top_entropy"],
    }
    loss_fn = adapter.ERCLoss(actor_config("erclip", loss=table))
    sampler = [row - 0.1 for row in Batch().old_logprobs]
    whole, batch, total = Batch(), Batch(), 0.0
    everything = whole.data(rollout_log_probs=sampler)
    loss_fn.prepare(everything, None)
    statistics = tu.get_non_tensor_data(everything, adapter.STATISTICS, None)
    expected, metrics = loss_fn(whole.model_output(), everything)
    expected.backward()
    for row in range(4):
        rows = slice(row, row + 1)
        data = batch.data(rows, rollout_log_probs=sampler)
        tu.assign_non_tensor(data, **{adapter.STATISTICS: statistics})
        loss, _ = loss_fn(batch.model_output(rows), data)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), abs=1e-7)
    torch.testing.assert_close(batch.gradient(), whole.gradient(), rtol=0, atol=1e-7)
    assert value(metrics, "clip/low_entropy_frac") * N == pytest.approx(N - 2)  # ⌈0.2 · 8⌉ kept
    with pytest.raises(UserError, match=r"needs rollout_log_probs .*calculate_log_probs=True"):
        loss_fn(Batch().model_output(), Batch().data())


def test_noise_is_logged_in_the_first_update_alone(actor_config):
    batch, later = Batch(), Batch()
    first, second = batch.data(), later.data()
    tu.assign_non_tensor(first, update_in_rollout=1)
    tu.assign_non_tensor(second, update_in_rollout=2)
    loss_fn = adapter.ERCLoss(actor_config("erc_dapo"))
    _, metrics = loss_fn(batch.model_output(), first)
    assert value(metrics, "erc/noise_frac") == value(metrics, "clip/erc_frac") > 0
    _, metrics = loss_fn(later.model_output(), second)
    assert "erc/noise_frac" not in metrics


def test_it_travels_to_a_worker(actor_config):
    loss_fn = adapter.ERCLoss(actor_config("erc_dapo", erc_rule="directional"))
    batch = Batch()
    loss, _ = loss_fn(batch.model_output(), batch.data())
    there = pickle.loads(pickle.dumps(loss_fn))
    assert "entropy_slopes" in there.loss_fn.needs
    again, _ = there(batch.model_output(), batch.data())
    assert again.item() == loss.item()


def test_what_is_missing_is_named(actor_config):
    loss_fn = adapter.ERCLoss(actor_config("erc_dapo", erc_rule="directional"))
    batch = Batch()
    output, data = batch.model_output(), batch.data()
    with pytest.raises(UserError, match="calculate_entropy"):
        loss_fn({"log_probs": output["log_probs"]}, data)
    stock = {**output, "entropy": output["entropy"].detach().requires_grad_()}
    with pytest.raises(UserError, match="verl's own engine"):
        loss_fn(stock, data)
    half = {**output, "entropy": output["entropy"].bfloat16()}
    with pytest.raises(UserError, match="verl's own engine"):
        loss_fn(half, data)
    with pytest.raises(UserError, match="no old entropies"):
        loss_fn(output, data.exclude("entropy"))
    with pytest.raises(UserError, match="erclip's engine"):
        loss_fn({k: v for k, v in output.items() if k != "entropy_slopes"}, data)


def test_stock_verl_with_our_mode_stops_with_a_sentence(actor_config):
    """`ppo_loss` without `ERCLoss` around it must not train on anything else."""
    from verl.workers.utils.losses import ppo_loss

    batch = Batch()
    with pytest.raises(UserError, match="loss_mode = erc_dapo runs under `erclip verl` only"):
        ppo_loss(actor_config("erc_dapo"), batch.model_output(junk=0.0), batch.data())


def test_our_name_in_verls_registry_is_ours_and_verls_stay_verls(monkeypatch):
    from verl.trainer.ppo import core_algos

    vanilla = get_policy_loss_fn("vanilla")
    assert get_policy_loss_fn("gspo") is not get_policy_loss_fn("erclip")  # verl has its own
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "erclip", vanilla)
    with pytest.raises(UserError, match="'erclip' of its own"):
        adapter.register()
