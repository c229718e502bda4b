"""`erclip train --dry-run`: all that a run does before it samples, and nothing on the disk."""

from __future__ import annotations

from pathlib import Path

from erclip.config import Config
from erclip.config.recipes import Recipe
from erclip.errors import UserError
from erclip.machine.console import Console
from erclip.plan.memory import available_bytes, plan
from erclip.plan.page import print_verdict
from erclip.records import Grade, Prompt, Response
from erclip.runs.run_folder import claim
from erclip.runs.trackers.kinds import make_tracker
from erclip.training.prepare import load_trainable
from erclip.training.producers import held_out
from erclip.training.rewards import at, check_function, reward
from erclip.training.sampling.base import encode_prompts
from erclip.training.trainer import task_from
from erclip.training.updates import build_loss, check_loss

SHOWN = 1200  # characters of the rendered prompt


def dry_run(recipe: Recipe, out: Path | None, console: Console, *, resume: Path | None) -> bool:
    """Check a recipe part by part, a line each; whether it could be trained here.

    Raises UserError for the first mistake, as the run itself would.
    """
    config = recipe.config
    console.print(f"{recipe.name}: {config.description}")
    if out is not None:
        claim(out)
    console.print(f"folder: {resume or out or f'runs/{recipe.name}-<date>-<time>'}")
    check_function(config.reward)
    loss = check_loss(build_loss(config.loss))
    console.print(f"loss: {loss!r}")
    for tracker in config.trackers:
        make_tracker(tracker)
        console.print(f"tracker: {tracker.kind}")
    available = available_bytes(config, 1)
    planned = plan(config, available=available)
    if not print_verdict(planned, config, available, console):
        return False
    return _check_model_and_data(config, console)


def _check_model_and_data(config: Config, console: Console) -> bool:
    task = task_from(config.data)
    for remark in task.remarks:
        console.print(f"warning: {remark}", style="yellow")
    asked = held_out(task, config)
    console.print(f"data: {len(task.train):,} prompts to train on, {len(asked):,} held out")
    if not len(task.train):
        raise UserError("The task has no training prompts; check data.path and its split.")
    said: list[str] = []
    policy = load_trainable(config, task, said.append, seed=config.trainer.seed, checkpoint=None)
    for text in said:
        console.print(f"warning: {text}", style="yellow")
    learning = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    console.print(f"model: {config.model.path}, {learning:,} numbers that learn, {policy.device}")
    first = task.train[0]
    (ids,) = encode_prompts(policy.tokenizer, [first], config.sampler.max_prompt_tokens)
    text = policy.tokenizer.decode(ids)
    cut = f"{text[:SHOWN]}…" if len(text) > SHOWN else text
    console.print(f"the first prompt, as the model reads it ({len(ids)} tokens):\n{cut}")
    if first.gold is not None:
        console.print(f"its answer: {first.gold}")
    _try_reward(config, first, ids, console)
    console.print("nothing was trained; leave out --dry-run to begin", style="green")
    return True


def _try_reward(config: Config, prompt: Prompt, ids: list[int], console: Console) -> None:
    """Call a user's reward function once, on an empty and wrong response."""
    empty = Response(prompt, tuple(ids), (ids[-1],), "", False, (0.0,))
    functions = [config.reward]
    if config.reward.later is not None:
        functions.append(at(config.reward, config.reward.later.after_prompts))
    for own in functions:
        if own.function is not None:
            value = reward(empty, Grade(False, None, "wrong"), own)
            console.print(f"{own.function}: {value:g} for an empty response")
