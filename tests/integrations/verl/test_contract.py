"""The names of verl and Ray that the adapter rests on: a move fails here, by name."""

from __future__ import annotations

import importlib
import inspect

import pytest

pytestmark = pytest.mark.verl

NAMES = {  # dotted name → leading parameters (None: not a function that we call or override)
    "verl.protocol:DataProto": None,
    "verl.trainer.main_ppo:run_ppo": ["config", "task_runner_class"],
    "verl.trainer.ppo.core_algos:POLICY_LOSS_REGISTRY": None,
    "verl.trainer.ppo.core_algos:register_policy_loss": ["name"],
    "verl.trainer.ppo.utils:need_critic": ["config"],
    "verl.trainer.ppo.utils:need_reference_policy": ["config"],
    "verl.utils.config:omega_conf_to_dataclass": ["config"],
    "verl.utils.config:validate_config": ["config", "use_reference_policy", "use_critic"],
    "verl.utils.device:auto_set_device": ["config"],
    "verl.utils.metric:AggregationType.SUM": None,
    "verl.utils.metric:Metric": ["aggregation", "value"],
    "verl.utils.metric:Metric.aggregate": ["self"],
    "verl.utils.tensordict_utils:assign_non_tensor": ["tensor_dict"],
    "verl.utils.tensordict_utils:get_non_tensor_data": ["data", "key", "default"],
    "verl.workers.config:PolicyLossConfig": None,
    "verl.workers.engine:BaseEngine.infer_batch": ["self", "data", "loss_function"],
    "verl.workers.engine:EngineRegistry.register": ["model_type", "backend", "device", "vendor"],
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.get_data_parallel_group": [
        "self"
    ],
    "verl.workers.utils.padding:no_padding_2_padding": ["tensor", "data"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_where_it_was(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if NAMES[name] is not None:
        assert list(inspect.signature(found).parameters)[: len(NAMES[name])] == NAMES[name]


def test_max_colocate_count_is_the_cpus_that_verl_reserves_per_gpu():
    """`nodes.check_nodes` waits for as many CPUs as verl's placement groups ask for."""
    from verl.single_controller.ray.base import RayResourcePool, ResourcePoolManager

    assert isinstance(ResourcePoolManager.max_colocate_count, int)
    text = inspect.getsource(ResourcePoolManager.create_resource_pool)
    assert "max_colocate_count=self.max_colocate_count" in text
    assert '{"CPU": self.max_colocate_count}' in inspect.getsource(RayResourcePool)


def test_rays_private_state_answers_by_node():
    """`nodes._free_resources`: Ray has no public call for what is free on each machine.

    A whole run (test_run.py) asks it; where it has moved, this says so at once.
    """
    import ray

    call = ray._private.state.available_resources_per_node
    assert list(inspect.signature(call).parameters) == []


def test_ray_metadata_holds_the_class_that_an_actor_was_made_from():
    """`runner`: verl's TaskRunnerV1 is a Ray actor class, and only a Python class has heirs."""
    from verl.trainer.main_ppo import TaskRunnerV1

    made_from = TaskRunnerV1.__ray_metadata__.modified_class
    assert isinstance(made_from, type)
    assert {"run", "init_agent_loop_manager"} <= set(dir(made_from))


def test_the_engine_vendor_is_chosen_by_a_variable_of_the_environment():
    from verl.workers.engine import EngineRegistry

    assert "VERL_ENGINE_VENDOR" in inspect.getsource(inspect.getmodule(EngineRegistry))


def test_the_fields_of_a_batch_that_a_loss_reads():
    """`loss.FIELDS` and what `ERCLoss` takes from the data."""
    from verl.workers.engine.fsdp import transformer_impl as fsdp
    from verl.workers.utils import losses

    engine = inspect.getsource(fsdp)
    for field in ("batch_num_tokens", "dp_size", "use_remove_padding", "calculate_entropy"):
        assert field in engine, field
    text = inspect.getsource(losses)
    for field in ("old_log_probs", "advantages", "response_mask", "ref_log_prob"):
        assert f'"{field}"' in text, field


def test_ppo_loss_calls_the_registered_loss_by_these_keywords():
    from verl.workers.utils import losses

    text = inspect.getsource(losses.ppo_loss)
    call = text[text.index("policy_loss_fn(\n") :].split(")")[0]
    for keyword in (
        "old_log_prob", "log_prob", "advantages", "response_mask", "loss_agg_mode", "config",
        "rollout_is_weights",
    ):  # fmt: skip
        assert f"{keyword}=" in call, keyword
    assert list(inspect.signature(losses.ppo_loss).parameters)[:3] == [
        "config", "model_output", "data",
    ]  # fmt: skip


def test_the_task_runner_prepares_its_agent_loops_between_setup_and_training():
    from erclip.integrations.verl.runner import _TaskRunner

    text = inspect.getsource(_TaskRunner.__bases__[0].run)
    order = [text.index(step) for step in (
        "self.trainer.init()", "self.init_agent_loop_manager()", "self.trainer.fit(",
    )]  # fmt: skip
    assert order == sorted(order)


def test_the_engine_overrides_what_verl_calls():
    from verl.workers.engine import BaseEngine
    from verl.workers.engine.fsdp import transformer_impl as fsdp

    engine = fsdp.FSDPEngineWithLMHead
    assert inspect.signature(engine._build_module).parameters.keys() == {"self"}
    assert list(inspect.signature(engine._build_fsdp_module).parameters) == ["self", "module"]
    assert list(inspect.signature(engine.prepare_model_inputs).parameters) == [
        "self", "micro_batch",
    ]  # fmt: skip
    assert list(inspect.signature(engine.prepare_model_outputs).parameters) == [
        "self", "output", "output_args", "micro_batch", "logits_processor_func",
    ]  # fmt: skip
    assert list(inspect.signature(BaseEngine.train_batch).parameters) == [
        "self", "data", "loss_function",
    ]  # fmt: skip
    source = inspect.getsource(engine.prepare_model_inputs)
    assert 'output_args["input_ids_rmpad_rolled"] = ' in source
    assert 'output_args["pad_size"] = ' in source
    assert hasattr(engine, "_gather_and_unpad_packed")


def test_the_trainer_scores_the_rollout_with_entropies_and_keeps_them():
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    text = inspect.getsource(PPOTrainer._compute_old_log_prob)
    assert '"calculate_entropy": True' in text
    assert 'data.select("old_log_probs", "entropy")' in text


def test_workers_can_be_given_a_loss_and_import_our_module():
    from verl.workers.config import HFModelConfig
    from verl.workers.engine_workers import ActorRolloutRefWorker

    assert list(inspect.signature(ActorRolloutRefWorker.set_loss_fn).parameters)[1] == "loss_fn"
    text = inspect.getsource(HFModelConfig.__post_init__)
    assert text.split("\n")[1].strip() == "import_external_libs(self.external_lib)"


def test_our_engine_is_the_one_that_workers_get():
    from verl.workers.engine import EngineRegistry

    from erclip.integrations.verl import worker  # noqa: F401
    from erclip.integrations.verl.engine import ERCEngine

    for strategy in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", strategy) is ERCEngine
        assert EngineRegistry.get_engine_cls("value_model", strategy) is not ERCEngine
