"""How each warm-up task is shown to a model: a function that writes one response, step by step.

A demonstrator gets a prompt and whether to solve it; if not, it tries and misses as a careless
solver would. The share of solutions sets where a warmed-up model starts. Numbers are written as
wide as the widest one: a digit is then as far from the digits it depends on in every step, which is
what a model of two layers learns soonest.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from erclip.errors import UserError
from erclip.models.architecture import CHARACTERS, CONTEXT, MAX_TOKENS
from erclip.records import Prompt
from erclip.tasks.countdown import Problem, derivations, solutions

Demonstrate = Callable[[Prompt, bool, random.Random], str]


@dataclass(frozen=True)
class Demonstrator:
    """A task with what a character tokenizer needs for it; lengths in tokens.

    `path` and `options` are the task's, as in a recipe's `data` section. `phrases` are the parts of
    a question or an answer that never change: a token each, so that a prompt is its numbers.
    `effort` is the number of updates, relative to countdown's; `solved_last` the share of solutions
    at the end.
    """

    path: str
    demonstrate: Demonstrate
    characters: str
    max_tokens: int
    context: int
    options: Mapping[str, Any] = field(default_factory=dict)
    phrases: tuple[str, ...] = ()
    effort: float = 1.0
    batch_size: int = 64
    solved_last: float = 0.4


@cache
def _countdown_texts(problem: Problem) -> tuple[list[str], list[str]]:
    attempts = dict.fromkeys(steps for steps, _ in derivations(problem.numbers))
    return solutions(problem), list(attempts)


def countdown(prompt: Prompt, solved: bool, draw: random.Random) -> str:
    """A solution, or any way of combining the numbers as shown, whatever it leads to."""
    found, attempts = _countdown_texts(Problem(*prompt.gold))
    return draw.choice(found if solved else attempts)


def count_bits(prompt: Prompt, solved: bool, draw: random.Random) -> str:
    """Halve until nothing is left and count the odd numbers; a slip counts one wrong, once.

    >>> ask = Prompt("p", ({"role": "user", "content": "How many in the number 1037?"},), "4")
    >>> count_bits(ask, True, random.Random(0))[:21]
    '1037:1;0518:1;0259:2;'
    """
    (found,) = re.findall(r"(\d+)\?", prompt.messages[-1]["content"])
    number, count, lines = int(found), 0, []
    slip = -1 if solved else draw.randrange(number.bit_length())
    for step in range(number.bit_length()):
        count += number % 2 if step != slip else 1 - number % 2
        lines.append(f"{number:0{len(found)}}:{count};")
        number //= 2
    return f"{''.join(lines)}<answer>{count}</answer>"


LEGS = {  # legs → animals, in the plural that the task writes
    0: "snakes sea_slugs jellyfishs flatworms leechs",
    2: "chickens birds humans ducks",
    4: "dogs cats cows horses lions elephants giraffes tigers deers sheeps",
    5: "starfishs",
    6: "insects ants butterflys beetles bees wasps grasshoppers crickets cockroachs "
    "praying_mantiss fireflys",
    8: "spiders scorpions",
    10: "crabs lobsters shrimps",
    14: "woodlouses",
}
LEGS_OF = {name.replace("_", " "): legs for legs, names in LEGS.items() for name in names.split()}


def leg_counting(prompt: Prompt, solved: bool, draw: random.Random) -> str:
    """Animal by animal the legs of all, and the sum so far; a slip takes another's legs, once.

    >>> ask = Prompt("p", ({"role": "user", "content": "Of 12 cats, 3 sea slugs?"},), "48")
    >>> leg_counting(ask, True, random.Random(0))
    '12 cats*04=048:048;03 sea slugs*00=000:048;<answer>48</answer>'
    """
    herd = re.findall(r"(\d+) ([a-z ]+)", prompt.messages[-1]["content"])
    slip = -1 if solved else draw.randrange(len(herd))
    total, lines = 0, []
    for step, (number, name) in enumerate(herd):
        legs = LEGS_OF[name]
        if step == slip:
            legs = draw.choice([other for other in LEGS if other != legs])
        total += int(number) * legs
        lines.append(f"{number:0>2} {name}*{legs:02}={int(number) * legs:03}:{total:03};")
    return f"{''.join(lines)}<answer>{total}</answer>"


DEMONSTRATORS = {
    demonstrator.path: demonstrator
    for demonstrator in (
        Demonstrator("countdown", countdown, CHARACTERS, MAX_TOKENS, CONTEXT),
        Demonstrator(
            "reasoning-gym:count_bits",
            count_bits,
            "0123456789:;?",
            max_tokens=96,
            context=128,
            options={"min_n": 1000, "max_n": 4095},
            phrases=(
                "How many 1 bits are there in the binary representation of the number ",
                "<answer>",
                "</answer>",
            ),
            effort=0.15,
            batch_size=32,
            solved_last=0.2,
        ),
        Demonstrator(
            "reasoning-gym:leg_counting",
            leg_counting,
            "0123456789 :;,*=?\n",
            max_tokens=88,
            context=128,
            options={"min_animals": 5, "max_animals": 5, "min_instances": 2, "max_instances": 15},
            phrases=(
                "Your task is to count how many legs there are in total when given a list of "
                "animals.\n\nNow, how many legs are there in total if you have ",
                *(f" {name}" for name in LEGS_OF),
                "<answer>",
                "</answer>",
            ),
            effort=0.3,
            batch_size=32,
            solved_last=0.2,
        ),
    )
}


def find_demonstrator(path: str) -> Demonstrator:
    """The demonstrator of a task by its name in a recipe.

    >>> find_demonstrator("countdown").max_tokens
    24
    """
    if path not in DEMONSTRATORS:
        raise UserError(
            f"No warm-up for the task {path!r}: there are demonstrators for "
            f"{', '.join(DEMONSTRATORS)}."
        )
    return DEMONSTRATORS[path]
