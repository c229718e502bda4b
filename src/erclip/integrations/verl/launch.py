"""`erclip verl`: compose verl's configuration with one of our recipes, check it, start verl."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.integrations.verl import require_verl
from erclip.integrations.verl.checks import check_config
from erclip.integrations.verl.nodes import user_error

DATA = ("data.train_files", "data.val_files")
FIRST_MACHINE = {"num_cpus": 1, "resources": {"node:__internal_head__": 0.001}}  # reads the data
FOLDER = "trainer.default_local_dir"
OTHER_PATHS = (
    "actor_rollout_ref.model.path",
    "reward.custom_reward_function.path",
    "trainer.resume_from_path",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
)


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def compose(recipe: str, overrides: Sequence[str]) -> Any:
    """verl's `ppo_trainer` configuration, then the recipe, then the overrides; checked by us.

    `recipe` is a shipped recipe's name or a YAML file with a `defaults` list of its own. verl is
    not imported: that takes longer than all else here, and a wrong setting need not wait for it.
    """
    require_verl()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _folder() / f"{recipe}.yaml"
    if not path.is_file():
        raise UserError(
            f"No verl recipe {recipe!r}: it is neither a file nor one of {', '.join(recipes())}."
        )
    search = f"hydra.searchpath=[file://{_folder()},file://{_verls_folder()}]"
    try:
        with initialize_config_dir(str(path.parent.resolve()), version_base=None):
            config = hydra_compose(path.stem, overrides=[search, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"verl's configuration: {' '.join(str(error).split())}") from None
    check_config(config)
    from erclip.integrations.verl.modes import loss_config  # loads torch

    loss_config(config.actor_rollout_ref.actor.policy_loss)
    return config


def validate(config: Any) -> None:
    """verl's own checks, which it makes with `assert` and ValueError."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
    except UserError:
        raise
    except (AssertionError, ValueError) as error:
        raise UserError(f"verl's configuration: {' '.join(str(error).split())}") from None


def as_yaml(config: Any) -> str:
    """The whole configuration, as verl will see it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config, resolve=False)


def launch(config: Any) -> None:
    """What `python -m verl.trainer.main_ppo` does, with our TaskRunner."""
    make_absolute(config, Path.cwd())
    validate(config)
    import ray
    from omegaconf import OmegaConf
    from verl.trainer.main_ppo import run_ppo
    from verl.utils.device import auto_set_device

    from erclip.integrations.verl import worker  # noqa: F401  (fails here rather than in a worker)
    from erclip.integrations.verl.runner import ERCTaskRunner

    auto_set_device(config)
    address = config.ray_kwargs.ray_init.get("address")
    if config.trainer.nnodes > 1 and not address:  # else Ray may start a cluster of this machine
        OmegaConf.update(config, "ray_kwargs.ray_init.address", "auto", force_add=True)
    try:
        run_ppo(config, task_runner_class=ray.remote(**FIRST_MACHINE)(ERCTaskRunner))
    except ConnectionError:
        if ray.is_initialized():
            raise
        raise UserError(
            f"trainer.nnodes = {config.trainer.nnodes} needs a Ray cluster, and none answers at "
            f"{address or 'this machine'}; run `ray start --head` here and `ray start "
            "--address=…` on the others (docs/verl.md)."
        ) from None
    except getattr(ray.exceptions, "AuthenticationError", ()) as error:  # older Rays ask for none
        raise UserError(
            f"The Ray cluster at {address or 'this machine'} asks for a token that was not given "
            "or is another's; copy ~/.ray/auth_token of the machine with Ray's head here and set "
            "RAY_AUTH_MODE=token (docs/verl.md)."
        ) from error
    except ray.exceptions.RayTaskError as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        raise mistake from None


def make_absolute(config: Any, here: Path) -> None:
    """Paths as the user meant them: a worker's working directory is where `ray start` was run.

    Data must exist, since the trainer would miss it after minutes of set-up; the others may be hub
    ids or `pkg://…`, and are paths if they exist.
    """
    from omegaconf import ListConfig, OmegaConf

    for key in (*DATA, FOLDER, *OTHER_PATHS):
        value = OmegaConf.select(config, key)
        if isinstance(value, ListConfig):
            OmegaConf.update(config, key, [_absolute(key, item, here) for item in value])
        elif value:
            OmegaConf.update(config, key, _absolute(key, value, here))


def _absolute(key: str, value: str, here: Path) -> str:
    if "://" in value:
        return value
    path = here / Path(value).expanduser()
    if key in DATA and not path.exists():
        raise UserError(f"{key} = {value}: there is no such file in {here}.")
    return str(path) if key == FOLDER or path.exists() else value


def _folder() -> Path:
    return Path(str(resources.files("erclip.integrations.verl") / "recipes"))


def _verls_folder() -> Path:
    """Of verl's configuration; its package is found, not imported."""
    spec = find_spec("verl")
    assert spec is not None, "require_verl has looked for it"
    return Path((spec.submodule_search_locations or [""])[0], "trainer", "config")
