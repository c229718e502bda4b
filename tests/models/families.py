"""A tiny configuration of every family that transformers lists as a causal language model.

Most follow from the names of a configuration's fields; what a family needs beside is in `OWN`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

SMALL: dict[str, Any] = {
    "vocab_size": 320, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 0, "sep_token_id": 2,
    "is_decoder": True, "initializer_range": 0.02,
    # width
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "emb_dim": 32, "embedding_size": 32,
    "embedding_dim": 32, "input_embedding_size": 16, "output_embedding_size": 24,
    "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8,
    "intermediate_size": 64, "ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64,
    "d_inner": 64, "dff": 64, "dim_ff": 64, "feed_forward_size": 64, "ffn_hidden_size": 64,
    "intermediate_size_mlp": 64, "dense_intermediate_size": 64, "expert_ffn_hidden_size": 32,
    # depth
    "num_hidden_layers": 4, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "encoder_layers": 1, "num_decoder_layers": 2, "num_encoder_layers": 1,
    # attention
    "num_attention_heads": 4, "num_key_value_heads": 2, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "attention_heads": 4,
    "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4, "num_kv_heads": 2,
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
    "head_dim": 8, "dim_head": 8, "kv_channels": 8, "attention_head_size": 8, "rotary_dim": 4,
    "max_position_embeddings": 256, "n_positions": 256, "n_ctx": 256, "max_seq_len": 256,
    "max_target_positions": 256, "type_vocab_size": 2, "sliding_window": 8,
    "sliding_window_size": 8, "sliding_window_pattern": 2, "global_attn_every_n_layers": 2,
    "attention_chunk_size": 16, "local_attention": 8,
    # latent attention, and the choice of keys
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 64,
    # experts
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32, "shared_experts_intermediate_size": 32,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1,
    # states
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_head_dim": 8, "linear_num_heads": 4,
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 8, "state_size": 8, "chunk_size": 8,
}  # fmt: skip

ALIKE = {"patch_size": 14, "image_size": 28, "depth": 1, "out_hidden_size": 32}
"""What towers beside the text have in common."""

FAMILIES = (
    "afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "bart", "beam", "bert",
    "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot", "blenderbot-small",
    "blt", "camembert", "codegen", "cohere", "cohere2_moe", "cohere_compass_text", "cpmant", "ctrl",
    "cwm", "data2vec-text", "dbrx", "deepseek_v2", "deepseek_v32", "deepseek_v4", "doge", "dots1",
    "dots3_note_text", "electra", "ernie", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon",
    "falcon_mamba", "flex_olmo", "flint", "fuyu", "gemma3, images", "gemma3n_text",
    "gemma4, images", "gemma4_unified", "gemma4_unified_text", "git", "glm4_moe_lite",
    "glm_moe_dsa", "got_ocr2", "gpt-sw3", "gpt_bigcode", "gpt_neox_japanese", "granite_swa",
    "granitemoe", "granitemoe_swa", "granitemoeshared", "hrm_text", "hunyuan_v1_moe", "hy_v3",
    "hy_v4", "hyperclovax", "inkling2_text", "inkling_text", "iquestcoder", "jetmoe", "kimi_linear",
    "kolibri1", "laguna", "lfm2_moe", "lfm3", "llama4, images", "longcat_flash", "marian", "mbart",
    "megatron-bert", "mellum", "mimo_v2_flash", "minicpm3", "minimax_m3_vl_text", "ministral",
    "ministral3", "modernbert-decoder", "moshi", "moss_transcribe_diarize", "mvp", "nanochat",
    "olmo3", "pegasus", "phi4_multimodal", "plbart", "prophetnet", "qwen2_moe", "qwen3_5",
    "qwen3_5_moe", "qwen4_exp", "qwen4_exp_text", "reformer", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "solar_open", "trocr", "vaultgemma", "whisper",
    "xglm", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xlstm", "xmod", "youtu", "zamba",
    "zaya",
    # since transformers 5.24
    "apertus1p5_text", "dory", "exaone", "inkling2_loop_text", "lara_mini", "sarvam_mla",
    "sarvam_moe",
)  # fmt: skip
"""By their names in transformers; `zoo` has others, with settings of their own, and the text part
of three that stand here with what reads images."""

WITHOUT = (
    *("gemma4_assistant", "gemma4_unified_assistant"),  # drafters: they read another model's cache
    *("musicgen", "musicgen_melody"),  # their vocabulary is sound
    *("emu3", "mllama"),  # their text part cannot be read back alone
    *("dots3_note", "gemma3n"),  # their text parts have rows
)
"""Families of transformers that have no row."""

OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "blt": {
        "patch_size": 4,
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {
            "hidden_size": 32,
            "hidden_size_global": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "vocab_size": 320,
        },
        "decoder_config": {
            "hidden_size": 32,
            "hidden_size_global": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": 320,
        },
        "patcher_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 1,
            "vocab_size": 320,
        },
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 32,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "dots3_note_text": {
        "head_dim": 16,
        "num_key_value_heads": 4,
        "layer_types": ["sliding_attention", "indexed_attention"] * 2,
        "per_layer_config": {
            layer: {"num_attention_heads": 2, "num_key_value_heads": 2} for layer in ("00", "02")
        },
    },
    "dory": {"n_input_layers": 1, "n_output_layers": 1},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "inkling2_loop_text": {"unpadded_vocab_size": 310},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"zero_expert_num": 2, "expert_ffn_hidden_size": 32},
    "minicpm3": {"dim_model_base": 16},
    "moshi": {"sliding_window": 256},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 97,
        "make_ngram_vocab_size_divisible_by": 8,
        "ple_embed_dim": 8,
        "heads_per_ngram": 2,
        "split_ngram_parts": 2,
    },
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [16, 16],
        "attn_layers": ["local", "local"],
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
        "pronunciation_vocab_size": 16,
        "shape_vocab_size": 16,
    },
    "xlm": {"causal": True, "is_encoder": True},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "use_mamba_kernels": False,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""What a family needs beside, or needs otherwise."""


def tiny(family: str, **more: Any) -> Any:
    """A small configuration of the family; raises AttributeError where transformers has none."""
    family = family.partition(",")[0]
    kind = getattr(hf, CONFIG_MAPPING_NAMES.get(family, family))
    return kind(**{**small(kind), **OWN.get(family, {}), **more})


def small(kind: Any) -> dict[str, Any]:
    """Small values of a configuration's fields, of those inside it, too."""
    known = {field.name for field in fields(kind)} | set(kind.attribute_map)
    chosen = {name: value for name, value in SMALL.items() if name in known}
    if "kv_lora_rank" in known:
        chosen["num_key_value_heads"] = SMALL["num_attention_heads"]
    for name, inner in kind.sub_configs.items():
        if inner.__name__ == "AutoConfig":
            inner = type(getattr(kind(), name))
        if hasattr(inner, "sub_configs"):
            towers = {n: v for n, v in ALIKE.items() if n in {f.name for f in fields(inner)}}
            own = OWN.get(inner.model_type, {})
            chosen[name] = {**towers, **small(inner), **own, "model_type": inner.model_type}
    return chosen
