"""Text ↔ tokens: what tokenizers add, drop or refuse."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from erclip.errors import UserError
from erclip.records import Prompt
from erclip.training.sampling import SamplingSettings, TransformersSampler, encode_prompt
from erclip.training.sampling.base import Reader
from models.zoo import build, tokenizer

PROMPT = Prompt("p", ({"role": "user", "content": "1+2"},), None)


def test_a_special_token_that_says_something_is_read():
    tok = tokenizer()
    think, end, begin = tok.convert_tokens_to_ids(["</think>", "<|im_end|>", "<s>"])
    body = [begin, *tok("so", add_special_tokens=False)["input_ids"], think]
    body += [*tok("3", add_special_tokens=False)["input_ids"], end]
    response = Reader(tok, [end]).response(PROMPT, [1], body, [0.0] * len(body))
    assert response.text == "so</think>3"
    assert not response.truncated


def test_a_prompt_is_left_open():
    closing = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tok = tokenizer(template=None, post=closing, eos_token="</s>")
    ids = encode_prompt(tok, PROMPT)
    assert ids[0] == 1
    assert 2 not in ids
    empty = Prompt("e", ({"role": "user", "content": ""},), None)
    assert encode_prompt(tok, empty) == [1]


def test_a_template_that_refuses_is_quoted():
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"prompt p \(System role not supported\); leave out data"):
        encode_prompt(tokenizer(template=refusing), PROMPT)


def test_named_templates_without_a_default_are_refused():
    with pytest.raises(UserError, match="chat template refuses prompt p"):
        encode_prompt(tokenizer(template={"rag": "x", "tool_use": "y"}), PROMPT)


def test_a_tokenizer_of_another_model_is_refused():
    sampler = TransformersSampler(build("llama", vocab_size=100), tokenizer())
    with pytest.raises(UserError, match=r"the model's vocabulary ends at 99: they do not belong"):
        sampler.sample([PROMPT], SamplingSettings(2, 4), [0])


def test_ends_beyond_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="before every end-of-sequence token"):
        TransformersSampler(
            build("llama", vocab_size=4, eos_token_id=None, pad_token_id=None), tokenizer()
        )
