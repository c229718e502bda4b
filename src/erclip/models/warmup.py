"""How the embedded model and its like are made: imitate a demonstrator who is not always right.

Reinforcement learning lifts a model that can solve a problem but does not always do it. Imitating
solutions alone and stopping early gives the opposite: a model that is surely right or surely wrong,
whose groups of responses carry no signal. So demonstrations are first nearly all solutions, then
more and more random attempts with right arithmetic and whatever result: the model learns to
calculate, to aim, and not always to aim. At the end three to five answers in ten are right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from erclip.errors import UserError
from erclip.machine.files import new_folder, refuse_taken
from erclip.models.architecture import SHAPES, build_model, build_tokenizer
from erclip.models.demonstrators import Demonstrate, find_demonstrator
from erclip.models.measure import sampled_accuracy
from erclip.records import Prompt
from erclip.tasks import load_task

IGNORED = -100
MADE = "the warmed-up model"
GENERATED = 20_000  # questions of a reasoning-gym task


class Example(NamedTuple):
    """Tokens of question and solution; the solution begins at `start`."""

    tokens: list[int]
    start: int


class Pace(NamedTuple):
    """How long a model of some size is trained, and at which learning rate."""

    steps: int
    learning_rate: float


PACES = {"0.1": Pace(4_000, 3e-3), "0.6": Pace(2_500, 2e-3), "3": Pace(1_500, 1e-3)}


class WarmUp(NamedTuple):
    """How a warm-up ended: updates made, held-out accuracy at temperature 1."""

    steps: int
    accuracy: float


def warm_up(
    out_dir: Path,
    *,
    task: str = "countdown",
    size: str = "0.1",
    seed: int = 0,
    steps: int | None = None,
    solved_first: float = 0.9,
    solved_last: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    check_every: int = 250,
    check_prompts: int = 512,
    report: Callable[[WarmUp], None] | None = None,
) -> WarmUp:
    """Train from scratch and save to `out_dir`: a model of `size` million parameters for `task`.

    A demonstration is a solution with a probability that falls linearly from `solved_first` to
    `solved_last`, else a random attempt; the last value sets the accuracy at the end. The learning
    rate falls linearly to a tenth. What is None is as the task's demonstrator and `size` have it.
    Deterministic: the same seed gives the same weights, bit for bit, on the same machine. `report`
    hears of the accuracy every `check_every` updates.
    """
    refuse_taken(out_dir, MADE)
    if size not in SHAPES:
        raise UserError(f"No size {size!r}: there are {', '.join(SHAPES)} (million parameters).")
    shown = find_demonstrator(task)
    pace = PACES[size]
    steps = steps or round(pace.steps * shown.effort)
    batch_size = batch_size or shown.batch_size
    last = shown.solved_last if solved_last is None else solved_last
    options = {"size": GENERATED, **shown.options} if shown.options else {}
    problems = load_task(task, options=options)
    held_out = problems.test[:check_prompts]
    tokenizer = build_tokenizer(shown.characters, shown.phrases, shown.context)
    model = build_model(tokenizer, seed, size, shown.max_tokens)
    optimizer, schedule = make_optimizer(model, learning_rate or pace.learning_rate, steps)
    draw = random.Random(seed)
    shares = (solved_first + (last - solved_first) * step / steps for step in range(steps))
    batches = demonstrated_batches(
        problems.train, tokenizer, shown.demonstrate, shares, batch_size, draw
    )
    result = WarmUp(0, 0.0)
    with new_folder(out_dir, MADE, "erclip warmup") as folder, one_thread():
        for step, batch in enumerate(batches, start=1):
            imitate(model, optimizer, batch)
            schedule.step()
            if step % check_every == 0 or step == steps:
                accuracy = sampled_accuracy(
                    model, tokenizer, problems, held_out, seed=seed, max_tokens=shown.max_tokens
                )
                result = WarmUp(step, accuracy)
                if report is not None:
                    report(result)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return result


def make_optimizer(
    model: LlamaForCausalLM, learning_rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW whose rate rises over 100 updates and falls to a tenth over all `steps`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:
        return learning_rate * min(1.0, (step + 1) / 100) * (1 - 0.9 * step / steps)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


@contextmanager
def one_thread() -> Generator[None]:
    """The order in which a sum is taken must not depend on the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def demonstrated_batches(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    demonstrate: Demonstrate,
    solved_shares: Iterable[float],
    batch_size: int,
    draw: random.Random,
) -> Iterator[list[Example]]:
    """A batch per share: random prompts, each with a random solution or a random attempt."""
    for solved_share in solved_shares:
        drawn = draw.choices(prompts, k=batch_size)
        texts = [demonstrate(prompt, draw.random() < solved_share, draw) for prompt in drawn]
        yield encode(tokenizer, drawn, texts)


def encode(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[Example]:
    """Each response behind its question, as the chat template renders it."""
    asked = tokenizer.apply_chat_template(
        [[dict(message) for message in prompt.messages] for prompt in prompts], tokenize=False
    )
    questions, answers = tokenizer(list(asked)).input_ids, tokenizer(list(responses)).input_ids
    return [
        Example([*question, *answer, tokenizer.eos_token_id], len(question))
        for question, answer in zip(questions, answers, strict=True)
    ]


def imitate(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Example],
) -> float:
    """One update towards the examples' solutions; the loss before it, nats per token."""
    model.train()
    pad_token_id = model.config.pad_token_id
    assert pad_token_id is not None
    tokens, labels = collate(examples, pad_token_id)
    loss = token_loss(model(input_ids=tokens, use_cache=False).logits, labels)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def collate(
    examples: Sequence[Example], pad_token_id: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Right-padded tokens, and labels on the solutions alone."""
    width = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), width), pad_token_id)
    labels = torch.full((len(examples), width), IGNORED)
    for i, (row, start) in enumerate(examples):
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = torch.tensor(row[start:])
    return tokens, labels


def token_loss(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """−mean log π(label_t | before t) over the labelled tokens, nats."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
