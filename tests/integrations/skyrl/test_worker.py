"""SkyRL's own policy worker on a CPU: registry, forward passes and micro-batches are its."""

from __future__ import annotations

import pytest
import torch
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase
from torch import nn

from erclip.errors import UserError
from erclip.integrations.skyrl import NAME, use
from erclip.losses import entropy_ratio_clip, gppo_clip, gspo_clip, policy_loss

pytestmark = pytest.mark.skyrl

PROMPT, LENGTH, VOCABULARY = 3, 5, 11
LENGTHS = (5, 2, 4, 1)


class Model(nn.Module):
    """What SkyRL's `HFModelWrapper` returns: log-probs of the response, entropies everywhere."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY))

    def forward(
        self, sequences, num_actions, attention_mask=None, *, temperature=1.0, return_output=False,
        compute_entropy=False, entropy_requires_grad=True, **_,
    ):  # fmt: skip
        logits = self.table[sequences] / temperature
        log_p = logits.log_softmax(-1)
        scored = log_p[:, :-1].gather(-1, sequences[:, 1:, None])[..., 0][:, -num_actions:]
        output = {"entropy": -(log_p.exp() * log_p).sum(-1)} if compute_entropy else {}
        return (scored, output) if return_output else scored


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    rows, width = len(LENGTHS), PROMPT + LENGTH
    sequences = torch.randint(VOCABULARY, (rows, width), generator=generator)
    mask = (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]).long()
    advantages = torch.tensor([[1.0], [-1.0], [0.5], [-0.2]]).expand(rows, LENGTH) / mask.sum()
    fields = {
        "sequences": sequences,
        "attention_mask": torch.ones_like(sequences),
        "action_log_probs": torch.zeros(rows, LENGTH),
        "base_action_log_probs": torch.zeros(rows, LENGTH),
        "values": torch.zeros(rows, LENGTH),
        "returns": torch.zeros(rows, LENGTH),
        "advantages": advantages.contiguous(),
        "loss_mask": mask,
        "response_mask": mask,
        "rollout_logprobs": torch.zeros(rows, LENGTH),
    }
    made = TrainingInputBatch(fields)
    made.metadata = {"response_length": LENGTH}
    return made


def moved(model, scale=0.3):
    """The same model after an update."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.table += scale * torch.randn(model.table.shape, generator=generator)
    return model


def expected(loss_fn, old, batch, model, entropies=False):
    """Our composition on the whole batch: the gradient of the table, and what was clipped."""
    twin = Model()
    twin.load_state_dict(model.state_dict())
    sequences, mask = batch["sequences"], batch["loss_mask"].bool()
    logprobs, output = twin(sequences, LENGTH, return_output=True, compute_entropy=True)
    before, old_output = old(sequences, LENGTH, return_output=True, compute_entropy=True)
    inside = slice(-LENGTH - 1, -1)
    more = {
        "entropies": output["entropy"][:, inside].detach(),
        "old_entropies": old_output["entropy"][:, inside].detach(),
    }
    out = loss_fn(
        logprobs=logprobs,
        old_logprobs=before.detach(),
        advantages=batch["advantages"] * mask.sum(),
        mask=mask,
        **(more if entropies else {}),
    )
    out.loss.backward()
    return twin.table.grad, out


def test_a_rule_in_the_registry_trains_as_our_composition(cfg, registry, worker, batch):
    use(cfg, {"surrogate": "gspo_clip"})
    assert cfg.trainer.algorithm.policy_loss_type == NAME
    made = worker(PolicyWorkerBase, cfg, Model())
    scored = made.forward(batch).loss_fn_outputs
    batch["action_log_probs"] = torch.tensor([row["logprobs"] for row in scored])
    moved(made.model)
    metrics = made.forward_backward(batch).metrics  # two micro-batches
    want, out = expected(policy_loss(gspo_clip()), Model(), batch, made.model)
    torch.testing.assert_close(made.model.table.grad, want, rtol=0, atol=1e-6)
    assert metrics["policy_loss"] == pytest.approx(out.loss.item(), abs=1e-6)
    assert "loss_metrics/clip/ppo_frac" in metrics


def test_erc_trains_as_our_composition(cfg, registry, worker, batch):
    erc = pytest.importorskip("erclip.integrations.skyrl.erc")
    section = {"surrogate": "gppo_clip", "constraints": ["entropy_ratio_clip"]}
    use(cfg, section)
    made = worker(erc.ERCPolicyWorkerBase, cfg, Model())
    both = torch.tensor([row["logprobs"] for row in made.forward(batch).loss_fn_outputs])
    logprobs, entropies = both.chunk(2, dim=1)
    batch["action_log_probs"] = torch.complex(logprobs, entropies)
    on_policy = made.forward_backward(batch).metrics
    assert on_policy["loss_metrics/clip/erc_frac"] == 0.0
    made.model.table.grad = None
    moved(made.model, 0.15)
    metrics = made.forward_backward(batch).metrics
    loss_fn = policy_loss(gppo_clip(), [entropy_ratio_clip()])
    want, out = expected(loss_fn, Model(), batch, made.model, entropies=True)
    torch.testing.assert_close(made.model.table.grad, want, rtol=0, atol=1e-6)
    assert 0 < (out.erc_low | out.erc_high).sum() < sum(LENGTHS)
    assert metrics["policy_loss"] == pytest.approx(out.loss.item(), abs=1e-6)


def test_the_trainer_joins_both_numbers(cfg, monkeypatch, batch):
    erc = pytest.importorskip("erclip.integrations.skyrl.erc")
    both = torch.rand(len(LENGTHS), 2 * LENGTH)

    def stock(self, training_input):
        training_input["action_log_probs"] = self._execute_forward_pass("policy", None)
        return training_input

    monkeypatch.setattr(erc.RayPPOTrainer, "_execute_forward_pass", lambda *_, **__: both)
    monkeypatch.setattr(erc.RayPPOTrainer, "fwd_logprobs_values_reward", stock)
    trainer = object.__new__(erc.ERCTrainer)
    made = trainer.fwd_logprobs_values_reward(batch)["action_log_probs"]
    assert torch.equal(made.real, both[:, :LENGTH])
    assert torch.equal(made.imag, both[:, LENGTH:])
    assert trainer._execute_forward_pass("ref", None) is both


@pytest.mark.parametrize(
    ("path", "value", "loss", "words"),
    [
        ("eps_clip_high", 0.3, {}, "eps_clip_high = 0.3 has no effect"),
        ("off_policy_correction.tis_ratio_type", "token", {}, "use `importance` in the loss"),
        ("use_kl_in_reward", True, {"constraints": ["entropy_ratio_clip"]}, "set it to False"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(cfg, registry, path, value, loss, words):
    section = cfg.trainer.algorithm
    *folders, last = path.split(".")
    for folder in folders:
        section = getattr(section, folder)
    setattr(section, last, value)
    with pytest.raises(UserError) as error:
        use(cfg, loss)
    assert words in str(error.value)
    assert NAME not in registry.list_available()


def test_another_batch_layout_for_the_old_policy_is_refused(cfg, registry):
    cfg.trainer.recompute_old_logprobs_per_minibatch = False
    with pytest.raises(UserError, match="another batch layout alone moves entropies"):
        use(cfg, {"constraints": ["entropy_ratio_clip"]})
