"""verl's TaskRunner with one more step: between set-up and training the workers get our loss."""

from __future__ import annotations

from typing import Any

from erclip.integrations.verl import require_verl

require_verl()

from verl.trainer.main_ppo import TaskRunnerV1
from verl.utils.config import omega_conf_to_dataclass

from erclip.integrations.verl.checks import check_config
from erclip.integrations.verl.loss import ERCLoss
from erclip.integrations.verl.nodes import check_nodes, machine_lost

# `TaskRunnerV1` is a Ray actor class; the Python class it was made from can be subclassed.
_TaskRunner: Any = TaskRunnerV1.__ray_metadata__.modified_class


class ERCTaskRunner(_TaskRunner):
    """Goes into `run_ppo(config, task_runner_class=ray.remote(ERCTaskRunner))`."""

    def run(self, config: Any) -> None:
        """verl's run, after the checks: `run_ppo` may have been called without `erclip verl`."""
        check_config(config)
        check_nodes(config)
        with machine_lost(0.0 if config.trainer.nnodes == 1 else 30.0):
            super().run(config)

    def init_agent_loop_manager(self) -> None:
        """Called by `run` after the trainer's set-up and before `fit`."""
        actor_config = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.trainer.actor_rollout_wg.set_loss_fn(ERCLoss(actor_config))
        super().init_agent_loop_manager()
