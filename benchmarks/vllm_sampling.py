"""Tokens per CPU second of vLLM, our transformers sampler and `generate`, taken in turns.

    python benchmarks/vllm_sampling.py models/smollm2 [--responses 64] [--tokens 64] [--rounds 3]

One prompt's responses, none of which may end before --tokens; float32, one thread. CPU seconds are
those of this process, in which all run, so that a busy machine does not decide. `products` is no
sampler: the model's matrix products alone, which none of them can do without.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from erclip.config import Config
from erclip.records import Prompt
from erclip.training.policy import load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler, encode_prompt
from erclip.training.sampling.load import load_sampler

QUESTION = "Write a long story about a lighthouse keeper and the sea."


def generate(policy, prompts, settings, seeds):
    """The same work through `generate`; only the number of tokens is of interest."""
    ids = torch.tensor([encode_prompt(policy.tokenizer, p) for p in prompts])
    torch.manual_seed(seeds[0])
    many = {"num_return_sequences": settings.responses, "max_new_tokens": settings.max_tokens}
    policy.model.eval()
    with torch.no_grad():
        found = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, **many
        )
    return (found[:, ids.shape[1] :] != policy.pad_id).sum().item()


def products(policy, settings):
    """The matrix products of the same tokens and nothing else; gives the number of tokens."""
    layers = [m for m in policy.model.modules() if isinstance(m, torch.nn.Linear)]
    weights = [layer.weight.detach() for layer in layers]
    rows = {w.shape[1]: torch.randn(settings.responses, w.shape[1]) for w in weights}
    for _ in range(settings.max_tokens):
        for weight in weights:
            torch.nn.functional.linear(rows[weight.shape[1]], weight)
    return settings.responses * settings.max_tokens


def main():
    """Print a row per round and sampler, and the medians' ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    for name, default in (("responses", 64), ("tokens", 64), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sampler = {"kind": "vllm", "kv_cache_gib": 1.0, "max_tokens": asked.tokens}
    sampler |= {"max_prompt_tokens": 128, "batch_size": asked.responses}
    config = Config.model_validate({"model": {"path": asked.model}, "sampler": sampler})
    policy = load_policy(config.model)
    prompts = [Prompt("story", ({"role": "user", "content": QUESTION},), None)]
    settings = SamplingSettings(asked.responses, asked.tokens)
    engine = load_sampler(config, policy)
    ours = TransformersSampler(policy.model, policy.tokenizer, asked.responses)

    def counted(sampler):
        return lambda: sum(len(r.token_ids) for r in sampler.sample(prompts, settings, [7])[0])

    work = {
        "vllm": counted(engine),
        "ours": counted(ours),
        "generate": lambda: generate(policy, prompts, settings, [7]),
        "products": lambda: products(policy, settings),
    }
    speeds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(asked.rounds):
        for name, run in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            speeds[name].append(tokens / cpu)
            print(f"{name:9} {tokens} tokens  {cpu:.2f} CPU s  {wall:.2f} s  {tokens / cpu:.0f}/s")
    median = {name: statistics.median(found) for name, found in speeds.items()}
    for other in ("ours", "generate", "products"):
        print(f"vllm is {median['vllm'] / median[other]:.2f} times as fast as {other}")
    bound = median["products"] / median["generate"]
    print(f"no sampler with these products can be {bound:.2f} times as fast as generate")


if __name__ == "__main__":
    main()
