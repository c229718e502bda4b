"""Controls that are more than settings: what a rule has to beat."""

from __future__ import annotations

from erclip.config import Config
from erclip.config.recipes import check
from erclip.errors import UserError

EQUAL_UPDATES = "equal_updates"


def on_policy(config: Config, name: str = "the study", how: bool | str = True) -> Config:
    """The control without reuse: K rollouts of 1/K of the prompts in the place of one rollout.

    As many updates, of as many responses each, but each is sampled by the policy that it changes.
    Where dynamic sampling drops groups, a small rollout may lose all of its own and make no update;
    `how="equal_updates"` lets it sample again instead, so that no update is missing.
    """
    updates, prompts = config.trainer.updates_per_rollout, config.rollout.prompts
    if prompts % updates:
        raise UserError(
            f"{name}: on_policy needs rollout.prompts ({prompts}) to be a multiple of "
            f"trainer.updates_per_rollout ({updates})."
        )
    table = config.model_dump()
    table["rollout"]["prompts"] = prompts // updates
    table["trainer"]["updates_per_rollout"] = 1
    table["trainer"]["rollouts"] *= updates
    table["eval"]["every"] *= updates
    table["checkpoint"]["every"] *= updates
    if how == EQUAL_UPDATES and config.rollout.dynamic_sampling.kind in ("drop", "oversample"):
        table["rollout"]["dynamic_sampling"] = {"kind": "refill"}
    return check(table, name)
