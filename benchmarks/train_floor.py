"""What an update costs beside the least that it could, and what ERC adds to it; one process.

The floor is a bare forward and backward pass of the trunk over the same rows, and the head's four
matrix products over the same tokens, without softmax, loss, metrics, gradient norm or optimiser.
Ways of doing the same update take turns; ratios are taken round by round, in CPU seconds.

    python benchmarks/train_floor.py [--smollm2 models/smollm2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch

from erclip.config.recipes import load_recipe
from erclip.machine.distributed import World
from erclip.ops.tiles import spans, tile_shape
from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.policy import Policy, load_policy
from erclip.training.scored_rollout import score
from erclip.training.updates import ScoredBatch, Updater, build_loss
from machine import measured_on, write_rows

RESULTS = Path(__file__).parent / "results"
SETUPS = {  # prompts in a mini-batch, responses to each, tokens of a prompt and of a response
    "embedded": (8, 8, 9, 14),
    "smollm2": (1, 8, 75, 32),
}


def samples(name: str, vocabulary: int) -> list[Sample]:
    """Random tokens; advantages of both signs, none of them zero."""
    prompts, responses, before, after = SETUPS[name]
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    found = []
    for i in range(prompts):
        prompt, prompt_ids = Prompt(str(i), (), None), ids(before)
        for g in range(responses):
            response = Response(prompt, prompt_ids, ids(after), "", False, (0.0,) * after)
            found.append(Sample(response, Grade(False, None, "wrong"), 0.0, (-1.0) ** g))
    return found


def floor(policy: Policy, mini_batch: list[ScoredBatch]) -> None:
    """The trunk forward and backward, and four products of the head, tile by tile."""
    weight = policy.model.get_output_embeddings().weight.detach()
    grad_weight = torch.zeros_like(weight)
    for scored in mini_batch:
        batch = scored.batch
        hidden = policy.model.base_model(**batch.inputs, use_cache=False).last_hidden_state
        hidden.backward(torch.ones_like(hidden))
        x = hidden.detach().flatten(0, 1)[batch.hidden_index]
        grad_x = torch.zeros_like(x)
        _, columns = tile_shape(len(x), len(weight), x.device, None)
        for v in spans(len(weight), columns):
            for _ in range(2):
                logits = x @ weight[v].T
            grad_x.addmm_(logits, weight[v])
            grad_weight[v].addmm_(logits.T, x)
    policy.model.zero_grad(set_to_none=True)


def measure(name: str, path: str, rounds: int) -> dict:
    recipe = load_recipe("quickstart", [f'model.path="{path}"', "trainer.learning_rate=1e-12"])
    policy = load_policy(recipe.config.model, 1.0)
    drawn = samples(name, policy.model.config.vocab_size)
    mini_batch = score(drawn, policy, recipe.config, World())
    updater = Updater(policy, recipe.config)
    bare = recipe.config.loss.model_copy(update={"constraints": ()})
    losses = {"update": updater.loss_fn, "without ERC": build_loss(bare)}

    def update(kind: str) -> Callable[[], object]:
        def run() -> object:
            updater.loss_fn = losses[kind]
            return updater.update(mini_batch)

        return run

    ways = {kind: update(kind) for kind in losses} | {"floor": lambda: floor(policy, mini_batch)}
    times: dict[str, list[float]] = {kind: [] for kind in ways}
    for round_ in range(rounds + 1):
        for kind in random.Random(round_).sample(list(ways), len(ways)):
            start = time.process_time()
            ways[kind]()
            if round_:  # the first one warms up
                times[kind].append(time.process_time() - start)
    row = {"setup": name, "rounds": rounds}
    for kind, column in (("update", "update"), ("without ERC", "no_erc"), ("floor", "floor")):
        row[f"{column}_cpu_s"] = f"{median(times[kind]):.4g}"
    for kind, column in (("without ERC", "of_no_erc"), ("floor", "of_floor")):
        ratios = [a / b for a, b in zip(times["update"], times[kind], strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        row |= {column: f"{middle:.3f}", f"{column}_q25": f"{low:.3f}"}
        row[f"{column}_q75"] = f"{high:.3f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setup", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--smollm2", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "train_floor.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common = {
        **measured_on(),
        "torch": torch.__version__,
    }
    rows = []
    for name in args.setup:
        path = "embedded" if name == "embedded" else str(args.smollm2)
        rows.append({**common, **measure(name, path, args.rounds)})
        print(rows[-1], flush=True)
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
