"""Tiny models of many architectures, with random weights large enough that every part counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from models.families import FAMILIES, tiny

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]

BASE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 4,
    "pad_token_id": 0,
}
IDS = {name: BASE[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
DELTA = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
SSM = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 40,
}

# name → (class of the configuration, what differs from BASE)
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama, tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama, dynamic NTK": (
        "LlamaConfig",
        {
            "max_position_embeddings": 40,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
    ),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {**MOE, "head_dim": 16, "decoder_sparse_step": 1, "norm_topk_prob": True},
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**DELTA, **MOE, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
    ),
    "qwen3.5": ("Qwen3_5TextConfig", DELTA),
    "qwen3.5-moe": (
        "Qwen3_5MoeTextConfig",
        {**DELTA, **MOE, "shared_expert_intermediate_size": 32},
    ),
    "mistral, window": ("MistralConfig", {"sliding_window": 8}),
    "mixtral": ("MixtralConfig", LOCAL),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gemma4": (
        "Gemma4TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": 320,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3, longrope": (
        "Phi3Config",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 40,
            "max_position_embeddings": 160,
            "rope_parameters": LONG,
        },
    ),
    "phimoe": ("PhimoeConfig", {**LOCAL, "lm_head_bias": True, "sliding_window": None}),
    "olmo2": ("Olmo2Config", {}),
    "olmoe": ("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("GraniteConfig", {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "cohere2": (
        "Cohere2Config",
        {"logit_scale": 0.25, "sliding_window": 8, "num_hidden_layers": 4},
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        {
            **LATENT,
            **ROUTED,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
        },
    ),
    "glm4-moe": (
        "Glm4MoeConfig",
        {
            **ROUTED,
            "head_dim": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gpt-oss": (
        "GptOssConfig",
        {
            **LOCAL,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "llama4": (
        "Llama4TextConfig",
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "intermediate_size_mlp": 64,
            "attention_chunk_size": 16,
            "num_hidden_layers": 4,
        },
    ),
    "minimax-m2": ("MiniMaxM2Config", {**LOCAL, "head_dim": 8, "rotary_dim": 4}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    "starcoder2": ("Starcoder2Config", {}),
    "stablelm": ("StableLmConfig", {}),
    "nemotron": ("NemotronConfig", {"head_dim": 8}),
    "falcon-h1": ("FalconH1Config", {**SSM, "head_dim": 8, "mamba_d_ssm": 64}),
    "bamba": ("BambaConfig", {**SSM, "attn_layer_indices": [1]}),
    "granite-4 hybrid": (
        "GraniteMoeHybridConfig",
        {**SSM, **LOCAL, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    ),
    "nemotron-h": (
        "NemotronHConfig",
        {
            **ROUTED,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "layers_block_type": ["mamba", "attention", "moe", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "moe_shared_expert_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    "zamba2": (
        "Zamba2Config",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_expand": 2,
            "chunk_size": 8,
            "num_mem_blocks": 1,
            "use_mem_rope": True,
            "num_key_value_heads": 4,
        },
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "recurrent-gemma": (
        "RecurrentGemmaConfig",
        {
            "num_hidden_layers": 3,
            "head_dim": 8,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "minimax": (
        "MiniMaxConfig",
        {
            **LOCAL,
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 8,
        },
    ),
    "olmo-hybrid": ("OlmoHybridConfig", {"num_hidden_layers": 4}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", GPT),
    "gpt-neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 256,
        },
    ),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 4}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 16,
            "pad_token_id": 0,
        },
    ),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "expand": 2,
            "chunk_size": 8,
        },
    ),
    "openai-gpt": ("OpenAIGPTConfig", GPT),
    "rwkv": ("RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 256}),
}
DECODERS |= {
    kind.removesuffix("Config").lower(): (kind, {"head_dim": 8} if own_head else {})
    for kind, own_head in (
        ("GemmaConfig", True),
        ("PhiConfig", False),
        ("OlmoConfig", False),
        ("GPTNeoXConfig", False),
        ("GlmConfig", True),
        ("Glm4Config", True),
        ("Ernie4_5Config", True),
        ("HunYuanDenseV1Config", True),
        ("ArceeConfig", True),
        ("BitNetConfig", False),
        ("PersimmonConfig", False),
        ("SeedOssConfig", True),
        ("DiffLlamaConfig", False),
        ("InternLM3Config", False),
        ("Jais2Config", False),
        ("ApertusConfig", False),
        ("HeliumConfig", True),
    )
}
NAMES = [*DECODERS, *OTHERS, *FAMILIES]
REFUSED = ("openai-gpt", "rwkv", "blt", "cpmant", "prophetnet", "reformer", "xlm", "xlnet")
SCALED = (  # logits are not hidden · weight
    *("granite", "cohere2", "recurrent-gemma", "cohere", "cohere2_moe", "inkling_text"),
    *("bert", "big_bird", "xlstm", "modernbert-decoder", "minicpm3", "dory", "camembert"),
    *("cpmant", "data2vec-text", "electra", "ernie", "megatron-bert", "prophetnet", "rembert"),
    *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
)


def config_of(name: str, **more: Any) -> Any:
    """The configuration; raises AttributeError where transformers does not know it."""
    if name in FAMILIES:
        return tiny(name, **more)
    kind, own = DECODERS[name] if name in DECODERS else OTHERS[name]
    return getattr(hf, kind)(**{**(BASE if name in DECODERS else IDS), **own, **more})


def build(name: str, **more: Any) -> Any:
    """A model with shaken weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name, **more)).eval()
    experts = any(p.ndim == 3 and "experts" in part for part, p in model.named_parameters())
    if experts and torch.__version__ < "2.9":
        pytest.skip("torch 2.8 has no product grouped by experts on CPUs")
    return shake(model)


@torch.no_grad()
def shake(model: Any) -> Any:
    """Matrices of unit gain, norms and biases off their first values; states' rates as they are."""
    g = torch.Generator().manual_seed(0)
    rates = ("a_log", "dt_bias", "rg_lru", "recurrent_param", "time_")
    for name, p in model.named_parameters():
        if any(part in name.lower() for part in rates) or name.endswith(".D"):
            continue
        noise = torch.randn(p.shape, generator=g)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p.shape[-1]))
        else:
            p.add_(0.1 * noise)
    head = model.get_output_embeddings().weight
    head.copy_(torch.randn(head.shape, generator=g) * 2 / math.sqrt(head.shape[-1]))
    return model


def tokenizer(template: Any = CHAT, post: Any = None, **more: Any) -> PreTrainedTokenizerFast:
    """Bytes, and a few special tokens; `post` is a post-processor."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["What is 1+2? The answer is 3."], trainer)
    if post is not None:
        inner.post_processor = post
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>", **more}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.chat_template = template
    return made


def saved(folder: Path, model: Any, tok: Any = None) -> Path:
    """The model's folder, with a tokenizer."""
    model.save_pretrained(folder)
    (tok or tokenizer()).save_pretrained(folder)
    return folder


@torch.no_grad()
def naive(model: Any, ids: list[int], prompt: int) -> torch.Tensor:
    """transformers' own log-probs of the tokens after the prompt, one unpadded sequence."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)[prompt - 1 : -1]
    return logprobs.gather(1, torch.tensor(ids[prompt:])[:, None])[:, 0]
