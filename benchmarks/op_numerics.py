"""Wrong ERC decisions against float64, by head and by the precision of the trunk.

    erclip fetch-model smollm2 models/smollm2
    python benchmarks/op_numerics.py models/smollm2

Responses are sampled from the model, an update is Adam's first step (lr · sign of the gradient) on
a REINFORCE loss with advantages ±1. Reference: the whole model in float64. A decision is wrong
where the entropy ratio is inside the band and the reference's is outside, or the other way round.
A trunk in 16 bits has its weights rounded after the update; under autocast they stay float32.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from erclip.ops import linear_logprob_entropy
from machine import kind, measured_on

PROMPTS = (
    "What is 17 times 24?",
    "Write one sentence about the sea.",
    "Count from one to twenty.",
    "What is the capital of France, and why is it famous?",
    "Solve 3x + 5 = 20 step by step.",
    "List the days of the week.",
    "Explain what a prime number is.",
    "A train travels 60 km in 45 minutes. How fast is it?",
)
BAND = 0.05
COLUMNS = (
    *("lr", "trunk", "head", "clipped_float64_frac", "clipped_frac", "wrong_frac"),
    *("wrong_low_entropy_frac", "low_entropy_tokens"),
)


def bf16_logits(hidden, weight, targets):
    z = (hidden.bfloat16() @ weight.bfloat16().T).float()
    log_p = z.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def lse_minus_mean(hidden, weight, targets):
    z = hidden.float() @ weight.float().T
    return z.logsumexp(-1) - (z.softmax(-1) * z).sum(-1)


def p_log_p(hidden, weight, targets):
    log_p = (hidden.float() @ weight.float().T).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def erclip(hidden, weight, targets):
    if hidden.dtype == torch.float64:
        hidden, weight = hidden.float(), weight.float()
    return linear_logprob_entropy(hidden, weight, targets).entropies


def float64(hidden, weight, targets):
    return linear_logprob_entropy(
        hidden.double(), weight.double(), targets, impl="chunked"
    ).entropies


HEADS = {
    "bf16 logits": bf16_logits,
    "float32 logits, lse − E[z]": lse_minus_mean,
    "float32 logits, −Σ p log p": p_log_p,
    "erclip (max-relative, log1p)": erclip,
}


def sample(model, tokenizer, new_tokens):
    """One response per prompt: ids [B, T] and the mask of response tokens."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True
        )
        for p in PROMPTS
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    torch.manual_seed(0)
    ids = model.generate(
        **batch, max_new_tokens=new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
    )
    grown = ids.shape[1] - batch.input_ids.shape[1]
    attention = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(len(ids), grown)], 1)
    response = torch.zeros_like(ids, dtype=torch.bool)
    ends = (ids[:, -grown:] == tokenizer.eos_token_id).long()
    response[:, -grown:] = (ends.cumsum(1) - ends) == 0
    return ids, attention, response


def hidden_states(model, ids, attention, response, rows=None, autocast=None):
    """States that score the response tokens, [N, D]; `rows` at a time changes only the batching."""
    with torch.autocast(ids.device.type, autocast, enabled=autocast is not None):
        return _hidden_states(model, ids, attention, response, rows)


def _hidden_states(model, ids, attention, response, rows):
    parts = []
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    for at in torch.arange(len(ids), device=ids.device).split(rows or len(ids)):
        out = model.model(
            input_ids=ids[at], attention_mask=attention[at], position_ids=positions[at]
        )
        parts.append(out.last_hidden_state[:, :-1][response[at, 1:]])
    return torch.cat(parts)


def outside(new, old):
    ratio = (new.double() + 1e-8) / (old.double() + 1e-8)
    return (ratio <= 1 - BAND) | (ratio >= 1 + BAND)


def updated(path, grads, lr, dtype):
    """The model after one step, in `dtype`; the step itself is made in float64."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    with torch.no_grad():
        for p, g in zip(model.parameters(), grads, strict=True):
            p -= lr * g.cpu().double().sign()
    return model.to(grads[0].device, dtype).eval()


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-6, 1e-5])
    parser.add_argument("--device", default="cpu", help="cuda, or cpu with one thread")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model = model.to(args.device).eval()
    with torch.no_grad():
        ids, attention, response = sample(model, tokenizer, args.new_tokens)
    targets = ids[:, 1:][response[:, 1:]]
    signs = 1.0 - 2.0 * (torch.arange(len(targets), device=args.device) % 2)
    hidden = hidden_states(model, ids, attention, response)
    weight = model.get_output_embeddings().weight
    (-(linear_logprob_entropy(hidden, weight, targets).logprobs * signs).mean()).backward()
    grads = [p.grad for p in model.parameters()]
    print(f"{len(targets)} response tokens", flush=True)

    def states(lr, dtype, rows=None, autocast=None):
        with torch.no_grad():
            m = updated(args.model, grads, lr, dtype)
            hidden = hidden_states(m, ids, attention, response, rows, autocast)
            return hidden, m.get_output_embeddings().weight

    common = {
        **measured_on(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": args.model.name,
        "tokens": len(targets),
    }
    out = args.out or Path(__file__).parent / "results" / "op_numerics" / f"{kind()}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), out.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*common, *COLUMNS), lineterminator="\n")
        writer.writeheader()
        exact = {lr: states(lr, torch.float64) for lr in (0.0, *args.lrs)}
        entropy = {lr: float64(*pair, targets) for lr, pair in exact.items()}
        low = entropy[0.0] < 0.1

        def record(lr, trunk, head, new, old):
            truth, got = outside(entropy[lr], entropy[0.0]), outside(new, old)
            wrong = truth != got
            values = (
                *(lr, trunk, head),
                *(f"{flags.double().mean():.4f}" for flags in (truth, got, wrong, wrong[low])),
                int(low.sum()),
            )
            writer.writerow({**common, **dict(zip(COLUMNS, values, strict=True))})
            file.flush()
            print(values, flush=True)

        for lr in args.lrs:
            for name, head in HEADS.items():
                old, new = (head(*exact[x], targets) for x in (0.0, lr))
                record(lr, "float64", name, new, old)
        for autocast in (torch.bfloat16, torch.float16):
            trunk = f"{name_of(autocast)} autocast, float32 weights"
            start = erclip(*states(0.0, torch.float32, autocast=autocast), targets)
            for lr in args.lrs:
                new = erclip(*states(lr, torch.float32, autocast=autocast), targets)
                record(lr, trunk, "erclip", new, start)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            trunk = name_of(dtype)
            start = erclip(*states(0.0, dtype), targets)
            for lr in args.lrs:
                record(lr, trunk, "erclip", erclip(*states(lr, dtype), targets), start)
            again = erclip(*states(0.0, dtype, rows=3), targets)
            record(0, f"{trunk}, other batching", "erclip", again, start)


if __name__ == "__main__":
    main()
