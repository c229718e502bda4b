"""The names of SkyRL that the adapter rests on: a move fails here, by name."""

from __future__ import annotations

import inspect

import pytest

pytestmark = pytest.mark.skyrl


def test_the_registry_calls_a_loss_by_these_arguments():
    from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry, ppo_policy_loss
    from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase

    assert list(inspect.signature(ppo_policy_loss).parameters) == [
        "log_probs", "old_log_probs", "advantages", "config", "loss_mask", "rollout_logprobs",
    ]  # fmt: skip
    assert list(inspect.signature(PolicyLossRegistry.register).parameters) == ["name", "func"]
    text = inspect.getsource(PolicyWorkerBase._forward_backward_micro)
    call = text[text.index("current_loss_fn(\n") :].split(")")[0]
    for keyword in ("config=", "loss_mask=", "rollout_logprobs="):
        assert keyword in call, keyword
    assert "policy_loss * grad_sum_correction_factor" in text  # N lies in the advantages
    assert "compute_entropy=True" in text
    assert 'output["entropy"]' in text


def test_the_worker_scores_the_old_policy_where_we_look():
    from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase

    text = inspect.getsource(PolicyWorkerBase._forward_micro_batch)
    assert "self.model(" in text
    assert '{"output": policy_logprob}' in text
    assert "_forward_micro_batch" in inspect.getsource(PolicyWorkerBase.forward)


def test_the_settings_that_are_checked_exist():
    from skyrl.backends.skyrl_train.utils.off_policy_correction_utils import (
        off_policy_correction_enabled,
    )
    from skyrl.train.config import SkyRLTrainConfig

    from erclip.integrations.skyrl.settings import REPLACED

    cfg = SkyRLTrainConfig()
    assert not off_policy_correction_enabled(cfg.trainer.algorithm.off_policy_correction)
    assert cfg.trainer.recompute_old_logprobs_per_minibatch is True
    assert cfg.trainer.strategy == "fsdp"
    for name in (*REPLACED, "use_kl_in_reward", "use_kl_loss", "policy_loss_type"):
        assert hasattr(cfg.trainer.algorithm, name), name


def test_the_trainer_goes_through_the_methods_that_are_overridden():
    trainer = pytest.importorskip("skyrl.train.trainer")
    names = ["self", "model", "data_fwd_pass", "key", "mini_batch_boundaries"]
    ppo = trainer.RayPPOTrainer
    assert list(inspect.signature(ppo._execute_forward_pass).parameters) == names
    text = inspect.getsource(ppo.fwd_logprobs_values_reward)
    assert 'training_input["action_log_probs"] = action_log_probs' in text
    assert list(inspect.signature(ppo.build_models).parameters)[1] == "PolicyWorker"
    main = pytest.importorskip("skyrl.train.entrypoints.main_base")
    assert list(inspect.signature(main.BasePPOExp.get_trainer).parameters)[1:] == [
        "cfg", "tracker", "tokenizer", "train_dataset", "eval_dataset", "inference_engine_client",
        "generator", "colocate_pg",
    ]  # fmt: skip
