"""Our engine on one rank, or on two that share every sequence (verl's Ulysses).

verl's all-to-all around attention sits in FlashAttention's call, which needs a GPU; here the same
two calls of verl stand around torch's attention.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from tensordict import TensorDict
from transformers import AttentionInterface
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils import ulysses
from verl.workers.config import (
    FSDPActorConfig,
    FSDPEngineConfig,
    FSDPOptimizerConfig,
    HFModelConfig,
)
from verl.workers.engine import EngineRegistry

from erclip.embedded import embedded_model_dir
from erclip.integrations.verl import worker  # noqa: F401
from erclip.integrations.verl.loss import ERCLoss
from erclip.integrations.verl.settings import ERCPolicyLossConfig

# Large enough to leave the band within three updates, small enough that tokens are left in it:
# with all of them clipped, the gradient is rounding, and AdamW makes whole steps of that.
LEARNING_RATE = 2e-4


def build(dtype="fp32", ranks=1, **model):
    settings = {"override_config": {"attn_implementation": "sdpa"}, "use_remove_padding": False}
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(path=str(embedded_model_dir()), **{**settings, **model}),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            mixed_precision={"param_dtype": dtype, "reduce_dtype": "fp32"},
            use_dynamic_bsz=True,
            max_token_len_per_gpu=200,
            infer_max_token_len_per_gpu=400,
            ulysses_sequence_parallel_size=ranks,
        ),
        optimizer_config=FSDPOptimizerConfig(
            lr=LEARNING_RATE, weight_decay=0.1, clip_grad=1.0, total_training_steps=10
        ),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def attention(module, query, key, value, attention_mask, scaling, position_ids, **_):
    """Packed causal attention [B H L D] of the whole sequence, of which this rank holds a part."""
    tensors, group = [query, key, value], ulysses.get_ulysses_sequence_parallel_group()
    size = ulysses.get_ulysses_sequence_parallel_world_size() if group else 1
    if size > 1:
        tensors = [
            ulysses.gather_seq_scatter_heads(t.transpose(1, 2), seq_dim=1, head_dim=2).transpose(
                1, 2
            )
            for t in tensors
        ]
        parts = [torch.empty_like(position_ids) for _ in range(size)]
        dist.all_gather(parts, position_ids.contiguous(), group=group)
        position_ids = torch.cat(parts, dim=-1)
    document = (position_ids[0] == 0).cumsum(0)
    same = document[:, None] == document[None, :]
    out = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=same & torch.ones_like(same).tril(), scale=scaling
    ).transpose(1, 2)
    if size > 1:
        out = ulysses.gather_heads_scatter_seq(out, seq_dim=1, head_dim=2)
    return out.contiguous(), None


AttentionInterface.register("ulysses", attention)


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def as_verl(samples, **non_tensor):
    """The same responses in the layout in which verl's workers get them."""
    prompts = [torch.tensor(s.response.prompt_ids) for s in samples]
    answers = [torch.tensor(s.response.token_ids) for s in samples]
    whole = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    ones = [torch.ones_like(a) for a in answers]
    fields = {
        "prompts": prompts,
        "responses": answers,
        "input_ids": whole,
        "position_ids": [torch.arange(len(w)) for w in whole],
        "response_mask": ones,
        "loss_mask": ones,
        "advantages": [
            torch.full((len(a),), s.advantage) for s, a in zip(samples, answers, strict=True)
        ],
    }
    data = TensorDict({k: nested(v) for k, v in fields.items()}, batch_size=len(samples))
    padded = non_tensor.pop("use_remove_padding", False)
    tu.assign_non_tensor(
        data,
        temperature=0.8,
        use_remove_padding=padded,
        use_fused_kernels=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=200,
        calculate_entropy=True,
        global_batch_size=len(samples),
        **non_tensor,
    )
    return data


def response_part(values, samples):
    """verl returns all positions; ours are the response's, shifted by one."""
    rows = []
    for row, sample in zip(values.unbind(), samples, strict=True):
        length = len(sample.response.token_ids)
        rows.append(row[-length - 1 : -1])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def add_old(data, old, samples):
    """What verl's trainer does between scoring and training."""
    lengths = [len(s.response.token_ids) for s in samples]
    for name, kept_as in (("log_probs", "old_log_probs"), ("entropy", "entropy")):
        rows = response_part(old[name], samples)
        data[kept_as] = nested(row[:n] for row, n in zip(rows, lengths, strict=True))


def actor(loss_mode, **settings):
    """verl's dataclass for the actor, with our policy-loss section."""
    kl = {k: settings.pop(k) for k in ("use_kl_loss", "kl_loss_coef") if k in settings}
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        use_dynamic_bsz=True,
        policy_loss=ERCPolicyLossConfig(loss_mode=loss_mode, **settings),
        **kl,
    )


def updates(engine, samples, loss_fn):
    """One scoring and three updates of packed rows; what they made, and the weights after them."""
    data = as_verl(samples, use_remove_padding=True)
    with engine.eval_mode():
        old = engine.infer_batch(data)["model_output"]
    add_old(data, old, samples)
    found = {name: response_part(old[name], samples) for name in ("log_probs", "entropy")}
    clip, norm = [], []
    for _ in range(3):
        with engine.train_mode():
            metrics = engine.train_batch(data, loss_fn)["metrics"]
        clip.append(float(metrics["clip/erc_frac"].aggregate()))
        norm.append(metrics.get("grad_norm"))  # of a group, its first rank alone says
    weights = {name: weight.full_tensor() for name, weight in engine.module.state_dict().items()}
    return {**found, "clip": clip, "norm": norm, "weights": weights}


def on_two_ranks(folder, samples, model):
    """`updates` with erc_dapo in two processes; what the first one found."""
    rows = [(s.response.prompt_ids, s.response.token_ids, s.advantage) for s in samples]
    (folder / "task.json").write_text(json.dumps({"rows": rows, "model": model}))
    command = [sys.executable, __file__, str(folder)]
    running = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    return torch.load(folder / "found.pt", weights_only=True)


def main(folder, rank):
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    task = json.loads((folder / "task.json").read_text())
    samples = [
        SimpleNamespace(
            response=SimpleNamespace(prompt_ids=prompt, token_ids=tokens), advantage=advantage
        )
        for prompt, tokens, advantage in task["rows"]
    ]
    found = updates(build(ranks=2, **task["model"]), samples, ERCLoss(actor("erc_dapo")))
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
