"""`erclip verl`: compose verl's configuration with one of our recipes, check it, start verl."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.integrations.verl import require_verl
from erclip.integrations.verl.checks import check_config


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def compose(recipe: str, overrides: Sequence[str]) -> Any:
    """verl's `ppo_trainer` configuration, then the recipe, then the overrides; checked.

    `recipe` is a shipped recipe's name or a YAML file with a `defaults` list of its own.
    """
    require_verl()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from erclip.integrations.verl.settings import loss_config

    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _folder() / f"{recipe}.yaml"
    if not path.is_file():
        raise UserError(
            f"No verl recipe {recipe!r}: it is neither a file nor one of {', '.join(recipes())}."
        )
    search = f"hydra.searchpath=[file://{_folder()},pkg://verl.trainer.config]"
    try:
        with initialize_config_dir(str(path.parent.resolve()), version_base=None):
            config = hydra_compose(path.stem, overrides=[search, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"verl's configuration: {' '.join(str(error).split())}") from None
    check_config(config)
    loss_config(config.actor_rollout_ref.actor.policy_loss)
    return config


def as_yaml(config: Any) -> str:
    """The whole configuration, as verl will see it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config, resolve=False)


def launch(config: Any) -> None:
    """What `python -m verl.trainer.main_ppo` does, with our TaskRunner."""
    import ray
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from erclip.integrations.verl import worker  # noqa: F401  (fails here rather than in a worker)
    from erclip.integrations.verl.runner import ERCTaskRunner

    auto_set_device(config)
    validate_config(
        config=config,
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )
    try:
        run_ppo(config, task_runner_class=ray.remote(ERCTaskRunner))
    except ray.exceptions.RayTaskError as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        raise mistake from None


def user_error(error: BaseException) -> UserError | None:
    """The UserError that a worker raised, out of the envelopes that Ray put around it."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return error if isinstance(error, UserError) else None


def _folder() -> Path:
    return Path(str(resources.files("erclip.integrations.verl") / "recipes"))
