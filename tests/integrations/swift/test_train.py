"""Whole runs of ms-swift's GRPO on a CPU: with ERC, without it, and what is refused."""

from __future__ import annotations

import pytest
import torch

from erclip.config import Config
from erclip.errors import UserError
from erclip.integrations.swift import check_version, use
from erclip.records import Grade, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.updates import Updater, score_old

from .conftest import ERC, NO_ERC, gradients, history

DIRECTIONAL = {"constraints": [{"kind": "entropy_ratio_clip", "rule": "directional"}]}
BONUS = {"constraints": ["entropy_ratio_clip"], "entropy_bonus": 0.1}


@pytest.mark.parametrize(
    "batches",
    [
        {"steps_per_generation": 1, "num_iterations": 3},
        {"steps_per_generation": 2, "gradient_accumulation_steps": 2, "num_iterations": 3},
    ],
    ids=["one micro-batch", "two"],
)
def test_without_erc_it_is_ms_swifts_own_dapo_loss(make, batches):
    settings = {"learning_rate": 0.05, "optim": "sgd", "max_steps": 3, **batches}
    ours = make(NO_ERC, **settings)
    ours.train()
    stock = make(None, loss_type="dapo", epsilon=0.2, epsilon_high=0.28, **settings)
    assert type(stock) is type(ours).__bases__[0]
    stock.train()
    assert history(ours, "reward") == history(stock, "reward")  # the same responses were drawn
    assert len(gradients(ours)) == len(gradients(stock)) == 3
    assert max(history(ours, "clip/ppo_frac")) > 0
    for got, want in zip(gradients(ours), gradients(stock), strict=True):
        assert got.keys() == want.keys()
        largest = max(gradient.abs().max().item() for gradient in want.values())
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=5e-4 * largest)


def test_the_first_update_is_on_policy_and_later_ones_are_clipped(make):
    trainer = make(ERC, max_steps=8)
    trainer.train()
    assert history(trainer, "erc/noise_frac") == [0.0, 0.0]
    assert history(trainer, "erc/rounding_frac") == [0.0]  # of the first rollout in ten; float32
    clipped = history(trainer, "clip/erc_frac")
    assert clipped[0] == clipped[4] == 0.0
    assert all(share > 0.05 for share in clipped[1:4] + clipped[5:])
    assert history(trainer, "ratio/mean")[0] == 1.0


@pytest.mark.parametrize("loss", [ERC, DIRECTIONAL, BONUS], ids=["GPPO", "directional", "bonus"])
def test_updates_are_our_trainers(make, loss):
    """Our own trainer on the batches of a generation: the same losses, fractions and gradients."""
    ours = make(loss, weight_decay=0)  # Trainer spares norms the decay
    seen = []
    compute = ours._compute_loss

    def watched(model, model_inputs, grpo_batch, origin_data=None):
        seen.append((model_inputs, grpo_batch))
        return compute(model, model_inputs, grpo_batch, origin_data)

    ours._compute_loss = watched
    ours.train()
    config = {
        "loss": loss,
        "trainer": {"learning_rate": 1e-3, "weight_decay": 0.0, "grad_clip": 1e9,
                    "warmup_updates": 0, "betas": [ours.args.adam_beta1, ours.args.adam_beta2]},
    }  # fmt: skip
    policy = load_policy(Config().model, temperature=ours.temperature)
    updater = Updater(policy, Config.model_validate(config))
    clipped = history(ours, "clip/erc_frac")
    assert max(clipped) > 0.05
    for update, scored in enumerate([as_ours(policy, *batch) for batch in seen]):
        found = updater.update([scored])
        assert history(ours, "clip/erc_frac")[update] == pytest.approx(
            found["clip/erc_frac"], abs=1e-5
        )
        assert history(ours, "policy/entropy")[update] == pytest.approx(
            found["policy/entropy"], abs=1e-5
        )
        assert history(ours, "grad_norm")[update] == pytest.approx(found["grad/norm"], rel=1e-3)
    for name, weight in policy.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=0, atol=5e-5)


def as_ours(policy, model_inputs, batch):
    """A micro-batch of ms-swift as our trainer's, scored by our policy as it is now."""
    ids, mask = model_inputs["input_ids"], batch.completion_mask.bool()
    samples = []
    for row, attended, inside, advantage in zip(
        ids, model_inputs["attention_mask"].bool(), mask, batch.advantages, strict=True
    ):
        answer = row[-len(inside) :][inside].tolist()
        prompt = row[attended].tolist()[: -len(answer)]
        response = Response(None, tuple(prompt), tuple(answer), "", False, (0.0,) * len(answer))
        samples.append(Sample(response, Grade(True, None, ""), 0.0, advantage[0].item()))
    made = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    return score_old(policy, made)


def test_metrics_do_not_depend_on_accumulation(make):
    runs = []
    for split in (1, 4):
        trainer = make(
            ERC,
            per_device_train_batch_size=32 // split,
            gradient_accumulation_steps=split,
            steps_per_generation=split,
            num_iterations=3,
            max_steps=3,
        )
        trainer.train()
        runs.append(trainer)
    one, four = runs
    for name in ("clip/erc_frac", "policy/entropy", "erc/ratio_q95", "train/tokens", "loss"):
        assert history(one, name) == pytest.approx(history(four, name), abs=1e-5), name
        assert len(history(four, name)) == 3
    assert history(one, "clip/erc_frac")[-1] > 0.05


def test_lora_and_a_reference_model(make):
    trainer = make(DIRECTIONAL, tuner_type="lora", lora_rank=4, beta=0.1, learning_rate=1e-2)
    trainer.train()
    assert history(trainer, "ratio/mean")[0] == 1.0  # adapters' dropout is off
    assert history(trainer, "clip/erc_frac")[-1] > 0
    assert history(trainer, "policy/kl_ref")[0] == pytest.approx(0.0, abs=1e-6)
    assert history(trainer, "policy/kl_ref")[-1] > 1e-4
    assert all("lora_" in name for name in gradients(trainer)[-1])


@pytest.mark.parametrize("of", ["old", "current"])
def test_rules_over_the_mini_batch_see_all_its_micro_batches(make, of):
    loss = {"constraints": [{"kind": "top_entropy", "fraction": 0.2, "of": of}]}
    trainer = make(loss, gradient_accumulation_steps=2, max_steps=4)
    trainer.train()
    kept = [1 - share for share in history(trainer, "clip/low_entropy_frac")]
    assert kept == pytest.approx([0.2] * 4, abs=0.03)


@pytest.mark.parametrize(
    ("loss", "settings", "words"),
    [
        (ERC, {"epsilon": 0.3}, "--epsilon 0.3 has no effect under `use(loss)`"),
        (ERC, {"loss_type": "sapo"}, "--loss_type sapo has no effect"),
        (ERC, {"steps_per_generation": 1}, "set --steps_per_generation 8"),
        (ERC, {"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "is no multiple of"),
        ({"kl": {"weight": 0.1}}, {}, "loss.kl is --beta in ms-swift"),
        ({"positive_nll": 0.1}, {}, "needs correct, which ms-swift does not have"),
        ({"surrogate": "gppo"}, {}, "loss.surrogate = 'gppo'"),
    ],
)
def test_refusals_are_one_sentence_with_the_remedy(make, loss, settings, words):
    with pytest.raises(UserError) as error:
        make(loss, **settings)
    assert words in str(error.value)
    assert ". " not in str(error.value)


def test_versions_that_were_not_read_and_megatron_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"ms-swift 4\.7\.0 is not supported, only >=4\.6,<4\.7"):
        check_version("4.7.0")
    monkeypatch.setitem(__import__("sys").modules, "swift.megatron.arguments", None)
    with pytest.raises(UserError, match="Megatron-SWIFT has trainers of its own"):
        use(ERC)
