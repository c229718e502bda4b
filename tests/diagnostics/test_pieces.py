"""Texts of single tokens, for tokenizers that work in bytes and in words."""

from __future__ import annotations

import pytest

from erclip.training.pieces import Pieces


class Bytes:
    """A byte-level tokenizer: an id is a byte."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode("utf-8", "replace")

    def convert_ids_to_tokens(self, token_id):
        return f"<{token_id}>"


class Words:
    """A SentencePiece tokenizer: a decoder that drops the first space."""

    vocabulary = ("▁the", "▁cat", "s")

    def decode(self, ids, skip_special_tokens):
        return "".join(self.vocabulary[i] for i in ids).replace("▁", " ").removeprefix(" ")

    def convert_ids_to_tokens(self, token_id):
        return self.vocabulary[token_id]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["a", "b"]),
        ("√2", ["√", "", "", "2"]),
        ("é𝛑", ["é", "", "𝛑", "", "", ""]),
    ],
)
def test_a_character_of_several_tokens_stands_at_the_first(text, pieces):
    assert Pieces(Bytes()).of(list(text.encode())) == pieces


def test_what_is_no_text_stays_visible():
    assert Pieces(Bytes()).of([0xE2, 0x41]) == ["\ufffd", "A"]


def test_spaces_of_sentencepiece_are_kept():
    assert Pieces(Words()).of([0, 1, 2]) == [" the", " cat", "s"]
