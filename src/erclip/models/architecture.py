"""Shapes of warmed-up models and their character tokenizer, both in standard formats.

The embedded model has two narrow layers: on a CPU a pass over so small a model costs mostly
per-operation overhead, and each layer adds its share. One layer is too few to look a number up and
calculate with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS, MAX_TOKENS, CONTEXT = "0123456789 +-*=;:", 24, 64  # countdown's; lengths in tokens

# The colon ends the question; the answer starts right after it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}:{% endif %}{% endfor %}"
)


class Shape(NamedTuple):
    """Width, width of the feed-forward part, layers, heads."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


SHAPES = {  # millions of parameters → shape
    "0.1": Shape(64, 256, 2, 4),
    "0.6": Shape(128, 384, 3, 4),
    "3": Shape(256, 640, 4, 8),
}


def build_tokenizer(
    characters: str = CHARACTERS, phrases: Sequence[str] = (), context: int = CONTEXT
) -> PreTrainedTokenizerFast:
    """One token per phrase, and one per character elsewhere.

    >>> tokenizer = build_tokenizer(phrases=["Solve "])
    >>> tokenizer.decode(tokenizer("Solve 3*7=21;").input_ids)
    'Solve 3*7=21;'
    >>> len(tokenizer("Solve 3*7=21;").input_ids)
    8
    """
    vocabulary = {
        token: index for index, token in enumerate((PAD, EOS, UNKNOWN, *characters, *phrases))
    }
    pattern = "|".join((*map(re.escape, phrases), r"[\s\S]"))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, size: str = "0.1", max_tokens: int = MAX_TOKENS
) -> LlamaForCausalLM:
    """A freshly initialised Llama decoder in float32, without dropout; `size` is one of SHAPES."""
    shape = SHAPES[size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model
