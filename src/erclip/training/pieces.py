"""Token ids → the text that each token stands for, so that it can be shown on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"  # what a decoder returns for a part of a character
_LONGEST_CHARACTER = 8  # tokens: no character takes more bytes than UTF-8's 4, twice over


class Pieces:
    """The texts of tokens, decoded once per id; joined they read like the response."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def one(self, token_id: int) -> str:
        """The text of one token, with the space that SentencePiece writes as ▁."""
        text = self._known.get(token_id)
        if text is None:
            text = self._tokenizer.decode([token_id], skip_special_tokens=False)
            raw = self._tokenizer.convert_ids_to_tokens(token_id)
            if isinstance(raw, str) and raw.startswith("▁") and not text.startswith(" "):
                text = f" {text}"
            self._known[token_id] = text
        return text

    def of(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; a character spread over several tokens is at the first of them."""
        pieces = [self.one(token_id) for token_id in token_ids]
        start = 0
        while start < len(pieces):
            if UNFINISHED in pieces[start]:
                start = self._join(token_ids, pieces, start)
            else:
                start += 1
        return pieces

    def _join(self, token_ids: Sequence[int], pieces: list[str], start: int) -> int:
        """Look for the tokens that finish the character begun at `start`; the place after them."""
        for end in range(start + 2, min(start + _LONGEST_CHARACTER, len(pieces)) + 1):
            text = self._tokenizer.decode(list(token_ids[start:end]), skip_special_tokens=False)
            if UNFINISHED not in text:
                pieces[start:end] = [text, *[""] * (end - start - 1)]
                return end
        return start + 1
