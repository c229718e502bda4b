"""Our engine in one process: its scores are the op's, its update is our trainer's."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from erclip.config import Config, ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.integrations.verl import engine as adapter
from erclip.integrations.verl import worker  # noqa: F401
from erclip.integrations.verl.loss import ERCLoss
from erclip.integrations.verl.modes import loss_config
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.updates import Updater, score_old

from . import engines
from .engines import add_old, as_verl, nested, response_part

pytestmark = pytest.mark.verl


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    store = f"file://{tmp_path_factory.mktemp('store') / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def build():
    return engines.build


@pytest.fixture
def samples(responses):
    rng = random.Random(0)
    grade = Grade(True, None, "correct")
    return [
        Sample(r, grade, 0.0, rng.choice([-1.0, 0.5, 1.2])) for r in itertools.chain(*responses[:4])
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_scores_are_our_policys(packed, build, samples, policy):
    engine = build(use_remove_padding=packed)
    with engine.eval_mode():
        output = engine.infer_batch(as_verl(samples, use_remove_padding=packed))["model_output"]
    assert set(output) == {"log_probs", "entropy"}
    assert output["entropy"].dtype == torch.float32
    policy.temperature = 0.8
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    ours = score_old(policy, batch).old
    for name, expected in (("log_probs", ours.logprobs), ("entropy", ours.entropies)):
        found = response_part(output[name], samples).where(batch.mask, 0.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_entropies_stay_float32_on_a_bfloat16_trunk(build, samples, policy):
    """Against the float64 entropy of the trunk's own hidden states there is no rounding left."""
    engine = build(dtype="bf16")
    seen = []
    engine._head.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with engine.eval_mode():
        output = engine.infer_batch(as_verl(samples))["model_output"]
    assert output["entropy"].dtype == output["log_probs"].dtype == torch.float32
    weight = engine._head.weight.full_tensor().bfloat16().double()
    rounded = 0.0
    for hidden, scores in seen:
        assert hidden.dtype == torch.bfloat16
        exact = entropy(hidden.double() @ weight.T / 0.8)
        assert (scores[..., 1] - exact).abs().max() < 1e-5
        logits = (hidden.double() @ weight.T).bfloat16() / 0.8  # what verl's own engine starts from
        rounded = max(rounded, (entropy(logits.double()) - exact).abs().max().item())
    assert rounded > 1e-3


def entropy(logits):
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("mode", ["erc_dapo", "erc_gppo"])
@pytest.mark.parametrize("rule", ["paper", "directional"])
def test_updates_are_our_trainers(mode, rule, build, samples, policy, actor_config):
    """Three updates on one scored batch: losses, fractions, gradient norms and weights agree."""
    section = actor_config(mode, erc_rule=rule, erc_low=0.02, erc_high=0.02, dual=10.0)
    engine, loss_fn = build(), ERCLoss(section)
    data = as_verl(samples)
    with engine.eval_mode():
        old = engine.infer_batch(data)["model_output"]
    policy.temperature = 0.8
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    scored = score_old(policy, batch)
    updater = Updater(policy, our_config(section))
    add_old(data, old, samples)
    clipped = 0.0
    for update in (1, 2, 3):
        with engine.train_mode():
            metrics = engine.train_batch(data, loss_fn)["metrics"]
        ours = updater.update([scored])
        assert len(metrics["clip/erc_frac"].values) > 1  # several micro-batches
        assert metrics["grad_norm"] == pytest.approx(ours["grad/norm"], rel=1e-4)
        for name in ("clip/erc_frac", "clip/erc_low_frac", "clip/ppo_frac", "policy/entropy"):
            assert metrics[name].aggregate() == pytest.approx(ours[name], abs=1e-5), name
        found = metrics["actor/pg_loss"].aggregate()
        assert found == pytest.approx(ours["loss/policy"], abs=1e-5)
        assert ("erc/noise_frac" in metrics) == (update == 1)
        clipped += ours["clip/erc_frac"]
    assert clipped > 0.1
    weights = {name: w.full_tensor() for name, w in engine.module.state_dict().items()}
    for name, expected in policy.model.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=2e-5)


def test_rounding_is_measured_once_in_ten_rollouts_and_changes_nothing(
    build, samples, actor_config, monkeypatch
):
    """In bfloat16 it clips tokens before any update; the updates that follow are the same."""
    loss_fn = ERCLoss(actor_config("erc_dapo"))
    found = []
    for measured in (True, False):
        engine, data = build(dtype="bf16"), as_verl(samples)
        if not measured:
            monkeypatch.setattr(adapter, "due", lambda _: False)
        seen = []
        for _ in range(2):  # rollouts, of two updates each
            with engine.eval_mode():
                old = engine.infer_batch(data)["model_output"]
            add_old(data, old, samples)
            for _ in range(2):
                with engine.train_mode():
                    seen.append(engine.train_batch(data, loss_fn)["metrics"])
        found.append(seen)
    shares = [update.pop("erc/rounding_frac", None) for update in found[0]]
    assert shares[1:] == [None, None, None]
    assert 0.005 < shares[0].aggregate() < 0.5
    assert "erc/rounding_frac" not in found[1][0]
    assert found[0][0]["erc/noise_frac"].aggregate() == 0.0
    for with_it, without in zip(*found, strict=True):
        assert with_it["grad_norm"] == without["grad_norm"]
        assert with_it["clip/erc_frac"].aggregate() == without["clip/erc_frac"].aggregate()


def test_lora_updates_are_our_trainers(build, samples, actor_config):
    """The same fractions, gradient norms and adapters from the same start; nothing else moves."""
    section = actor_config("erc_dapo", erc_low=0.02, erc_high=0.02, erc_rule="directional")
    engine = build(lora_rank=4, lora_alpha=8, target_modules="all-linear")
    data, loss_fn = as_verl(samples), ERCLoss(section)
    with engine.eval_mode():
        old = engine.infer_batch(data)["model_output"]
    add_old(data, old, samples)
    config = our_config(section).model_copy(update={"model": ModelConfig(lora=ADAPTERS)})
    policy = load_policy(config.model, temperature=0.8)
    begun = whole(engine)
    assert begun.keys() == policy.model.state_dict().keys()
    policy.model.load_state_dict(begun)
    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    scored, updater, clipped = score_old(policy, batch), Updater(policy, config), 0.0
    for _ in range(3):
        with engine.train_mode():
            metrics = engine.train_batch(data, loss_fn)["metrics"]
        ours = updater.update([scored])
        assert metrics["grad_norm"] == pytest.approx(ours["grad/norm"], rel=1e-3)
        for name in ("clip/erc_frac", "policy/entropy"):
            assert metrics[name].aggregate() == pytest.approx(ours[name], abs=1e-5), name
        clipped += ours["clip/erc_frac"]
    assert clipped > 0.05
    for name, weight in whole(engine).items():
        torch.testing.assert_close(weight, policy.model.state_dict()[name], rtol=0, atol=5e-5)
        assert ("lora_" in name) != torch.equal(weight, begun[name]), name


ADAPTERS = {"rank": 4, "alpha": 8}


def whole(engine):
    """Weights by their names in our policy."""
    return {
        name.removeprefix("base_model.model."): weight.full_tensor().clone()
        for name, weight in engine.module.state_dict().items()
    }


@pytest.mark.timeout(900)
def test_ulysses_over_two_ranks_is_one_rank(build, samples, actor_config, tmp_path):
    """Each rank scores half of the packed positions; decisions, gradients and weights are one's."""
    model = {"use_remove_padding": True, "override_config": {"attn_implementation": "ulysses"}}
    one = engines.updates(build(**model), samples, ERCLoss(actor_config("erc_dapo")))
    two = engines.on_two_ranks(tmp_path, samples, model)
    assert one["clip"][-1] > 0.05
    assert two["clip"] == pytest.approx(one["clip"], abs=1e-5)
    assert two["norm"] == pytest.approx(one["norm"], rel=1e-3)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-5)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=5e-5)


def our_config(section):
    trainer = {
        "learning_rate": engines.LEARNING_RATE,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "warmup_updates": 0,
    }
    return Config.model_validate(
        {"loss": loss_config(section.policy_loss).model_dump(), "trainer": trainer}
    )


def test_verls_padding_rows_change_nothing(build, samples, actor_config):
    """127 end tokens and a masked one, alone in a micro-batch without a valid token."""
    found = []
    for padded in (False, True):
        engine, data = build(), as_verl(samples)
        with engine.eval_mode():
            old = engine.infer_batch(data)["model_output"]
        add_old(data, old, samples)
        data = with_padding_row(data) if padded else data
        for _ in range(2):
            with engine.train_mode():
                metrics = engine.train_batch(data, ERCLoss(actor_config("erc_dapo")))["metrics"]
        names = ("actor/pg_loss", "clip/erc_frac", "policy/entropy")
        values = [metrics["grad_norm"], *(metrics[name].aggregate() for name in names)]
        weights = [w.full_tensor() for w in engine.module.state_dict().values()]
        found.append((values, weights))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    for with_row, without in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(with_row, without, rtol=0, atol=2e-5)


def with_padding_row(data):
    end, one = torch.full((127,), 1), torch.ones(1, dtype=torch.long)
    row = {
        "prompts": end, "responses": one, "input_ids": torch.cat([end, one]),
        "position_ids": torch.arange(128), "response_mask": one * 0, "loss_mask": one * 0,
        "advantages": torch.zeros(1), "old_log_probs": torch.zeros(1), "entropy": torch.zeros(1),
    }  # fmt: skip
    fields = {name: nested([*data[name].unbind(), value]) for name, value in row.items()}
    longer = TensorDict(fields, batch_size=len(data) + 1)
    keys = ("temperature", "use_remove_padding", "use_fused_kernels", "use_dynamic_bsz")
    keys += ("max_token_len_per_gpu", "calculate_entropy", "global_batch_size")
    tu.assign_non_tensor(longer, **{key: data[key] for key in keys})
    return longer


def test_another_loss_is_refused(build, samples):
    engine = build()
    with engine.train_mode(), pytest.raises(UserError, match="not erclip's"):
        engine.train_batch(as_verl(samples), lambda **_: None)


def test_a_model_that_changes_its_logits_is_refused(build, samples):
    engine = build()
    model = engine.module
    stock = type(model).forward

    def capped(self, *args, **kwargs):
        output = stock(self, *args, **kwargs)
        output.logits = output.logits.tanh()
        return output

    model.forward = capped.__get__(model)
    with engine.eval_mode(), pytest.raises(UserError, match="does something to its logits"):
        engine.infer_batch(as_verl(samples))


def test_the_head_still_generates(build, samples):
    """Weights that verl sends to its rollout keep their names; logits are the model's."""
    from transformers import AutoModelForCausalLM

    engine = build()
    names, _ = engine.get_per_tensor_param()
    plain = AutoModelForCausalLM.from_pretrained(embedded_model_dir()).eval()
    expected = plain.state_dict()
    sent = dict(names)
    assert sent.keys() == expected.keys()
    for name, weight in sent.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
    ids = torch.tensor([samples[0].response.prompt_ids])
    with torch.no_grad(), engine.eval_mode():
        torch.testing.assert_close(engine.module(ids).logits, plain(ids).logits)
