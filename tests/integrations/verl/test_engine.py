"""Our engine in one process: its scores are the op's, its update is our trainer's."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

from erclip.config import Config
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.integrations.verl import worker  # noqa: F401
from erclip.integrations.verl.loss import ERCLoss
from erclip.integrations.verl.modes import loss_config
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.updates import Updater, score_old

pytestmark = pytest.mark.verl


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    store = f"file://{tmp_path_factory.mktemp('store') / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def build():
    def build(dtype="fp32", **model):
        settings = {"override_config": {"attn_implementation": "sdpa"}, "use_remove_padding": False}
        engine = EngineRegistry.new(
            model_type="language_model",
            backend="fsdp2",
            model_config=HFModelConfig(path=str(embedded_model_dir()), **{**settings, **model}),
            engine_config=FSDPEngineConfig(
                strategy="fsdp2",
                mixed_precision={"param_dtype": dtype, "reduce_dtype": "fp32"},
                use_dynamic_bsz=True,
                max_token_len_per_gpu=200,
                infer_max_token_len_per_gpu=400,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=LEARNING_RATE, weight_decay=0.1, clip_grad=1.0, total_training_steps=10
            ),
            checkpoint_config=CheckpointConfig(),
        )
        engine.initialize()
        return engine

    return build


@pytest.fixture
def samples(responses):
    rng = random.Random(0)
    grade = Grade(True, None, "correct")
    return [
        Sample(r, grade, 0.0, rng.choice([-1.0, 0.5, 1.2])) for r in itertools.chain(*responses[:4])
    ]


# Large enough to leave the band within three updates, small enough that tokens are left in it:
# with all of them clipped, the gradient is rounding, and AdamW makes whole steps of that.
LEARNING_RATE = 2e-4


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def as_verl(samples, **non_tensor):
    """The same responses in the layout in which verl's workers get them."""
    prompts = [torch.tensor(s.response.prompt_ids) for s in samples]
    answers = [torch.tensor(s.response.token_ids) for s in samples]
    whole = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    ones = [torch.ones_like(a) for a in answers]
    fields = {
        "prompts": prompts,
        "responses": answers,
        "input_ids": whole,
        "position_ids": [torch.arange(len(w)) for w in whole],
        "response_mask": ones,
        "loss_mask": ones,
        "advantages": [
            torch.full((len(a),), s.advantage) for s, a in zip(samples, answers, strict=True)
        ],
    }
    data = TensorDict({k: nested(v) for k, v in fields.items()}, batch_size=len(samples))
    padded = non_tensor.pop("use_remove_padding", False)
    tu.assign_non_tensor(
        data,
        temperature=0.8,
        use_remove_padding=padded,
        use_fused_kernels=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=200,
        calculate_entropy=True,
        global_batch_size=len(samples),
        **non_tensor,
    )
    return data


def response_part(values, samples):
    """verl returns all positions; ours are the response's, shifted by one."""
    rows = []
    for row, sample in zip(values.unbind(), samples, strict=True):
        length = len(sample.response.token_ids)
        rows.append(row[-length - 1 : -1])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


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


def add_old(data, old, samples):
    """What verl's trainer does between scoring and training."""
    lengths = [len(s.response.token_ids) for s in samples]
    for name, kept_as in (("log_probs", "old_log_probs"), ("entropy", "entropy")):
        rows = response_part(old[name], samples)
        data[kept_as] = nested(row[:n] for row, n in zip(rows, lengths, strict=True))


def our_config(section):
    trainer = {
        "learning_rate": LEARNING_RATE,
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
