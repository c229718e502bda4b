r"""Reads TeX by TeX's rules for groups and arguments, and writes canonical LaTeX.

It decides what is typography (fonts, colours, sizes, spaces) and which letters are words,
functions, units or a product. `typography.canonical` says what the result looks like.
"""

from __future__ import annotations

import re
from itertools import pairwise

from erclip.grading.names import (
    ALIASES,
    DROPPED,
    DROPPED_ARGUMENTS,
    DROPPED_LENGTH,
    FUNCTIONS,
    LISTS,
    MARKS,
    MATRICES,
    PLAIN_WORDS,
    SYMBOLS,
    UNWRAPPED,
    UPRIGHT,
)
from erclip.grading.units import is_unit

_TOKEN = re.compile(
    r"\s+|\\[a-zA-Z]+\*?|\\.|\d+(?:\.\d+)?[eE][-+]?\d+(?![\w.])|\d+|[A-Za-zÀ-ɏ]*[À-ɏ][A-Za-zÀ-ɏ]*|[A-Za-z]+"
    r"|[^\W\d_a-zA-Z]+(?:[ -][^\W\d_a-zA-Z]+)*|.",
    re.DOTALL,
)
_ENDS_A_VALUE = re.compile(r"[\d)\]}%]$|\\circ\s?$")
_SPACES = {"\\,", "\\;", "\\:", "\\!", "\\ ", "\\>", "~", "\\/", "\\-"}
_OPTION = re.compile(r"\s*\[[^\]]*\]")
_LENGTH = re.compile(r"\s*-?[\d.]+ *(?:pt|em|ex|mu|cm|mm|in)(?: plus [\d.]+[a-z]+)?")
_ONE_WORD = re.compile(r"\s*\{\s*([a-z]+)\s*\}")
_NAME_OR_NUMERAL = re.compile(r"[A-Z][a-z]{2,}|[IVX]{2,}")
_ALIGNMENT = re.compile(r"&(?= ?(?:=|<|>|\\[lg]e |$))|(?<=[=<> ])&|^\s*&")
_BESIDE = re.compile(r',? ?&(?:"(?:if|for|when)")?')
_MAX_ARGUMENT = 400
_MAX_DEPTH = 40
_OPENERS = {")": "(", "]": "["}


class TooDeep(Exception):
    """Commands take one another as arguments without end."""


class Scanner:
    """TeX's rules for groups and arguments over one text; the guards have bounded its depth."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._depth = 0
        self._before = ""  # the piece that was written last, at whatever depth

    def group(self, upright: bool, until: str | None = None) -> str:
        r"""What stands before the closing brace, or before `\end`, in canonical form."""
        out: list[str] = []
        spaced, inner = False, 0
        self._deeper(1)
        while (match := _TOKEN.match(self._text, self._at)) is not None:
            symbol, self._at = match[0], match.end()
            if until in (")", "]") and symbol == _OPENERS[until]:
                inner += 1
            elif symbol == until and inner:
                inner -= 1
            elif symbol == until or (symbol == "}" and until != r"\end" and self._depth > 1):
                break
            if symbol.isspace() or symbol in _SPACES:
                spaced = True
                continue
            if symbol == r"\rm" or (symbol in (r"\mathrm", r"\textrm") and not self._opens()):
                upright = True
                continue
            if symbol in (r"\over", r"\choose"):
                kind = r"\frac" if symbol == r"\over" else r"\binom"
                out = [f"{kind}{{{''.join(out)}}}{{{self.group(upright, until)}}}"]
                break
            before = out[-1] if out else ""
            piece = self._item(symbol, upright, spaced)
            pair = before[-1:] + piece[:1]
            if (spaced and (pair[:1] == "," or re.fullmatch(r"[\d.]\d", pair))) or (
                pair.isalpha() and re.search(r"\\[a-zA-Z]+$", before)
            ):
                out.append(" ")
            if piece:
                out.append(piece)
                divides = piece in ("/", r"\cdot ") and self._before[-1:] == '"'
                self._before = '"/' if divides else piece
                spaced = False
        self._deeper(-1)
        return "".join(out)

    def _deeper(self, step: int) -> None:
        self._depth += step
        if self._depth > _MAX_DEPTH:
            raise TooDeep

    def _opens(self) -> bool:
        return re.match(r"\s*\{", self._text[self._at : self._at + 20]) is not None

    def _item(self, symbol: str, upright: bool, spaced: bool = False) -> str:
        """One symbol with its arguments."""
        before = self._before
        if symbol == "{":
            return self._braces(self.group(upright), before)
        if symbol in "^_":
            return self._script(symbol, upright, before)
        if symbol.isascii() and symbol.isalpha():
            return self._letters(symbol, upright, before, spaced)
        if symbol[0] == "\\" and symbol[1:2].isalpha():
            return self._command(symbol[1:].rstrip("*"), upright)
        if symbol.isalpha():
            return f'"{symbol}"'
        if symbol == "." and before.endswith('"'):
            return ""
        return {"*": r"\cdot ", "\\&": '"and"', "\\\\": r"\\", "~": ""}.get(symbol, symbol)

    @staticmethod
    def _braces(content: str, before: str) -> str:
        """Braces that only group vanish, unless they hold a sum or belong to an unknown command."""
        is_sum = re.search(r"(?<!^)[-+]", content) and '"' not in content
        if is_sum or (not content.startswith('"') and re.search(r"\\[a-zA-Z]+ ?$|\}$", before)):
            return f"{{{content}}}"
        return content

    def _script(self, mark: str, upright: bool, before: str) -> str:
        self._skip_blanks()
        start = re.match(r"\(|-?\d+|-[a-zA-Z]", self._text[self._at : self._at + _MAX_ARGUMENT])
        if start is None:
            content = self.argument(upright)
        elif start[0] == "(" and mark == "^":
            self._at += 1
            content = self.group(upright, until=")")
        elif start[0] == "(":
            content = self.argument(upright)
        else:
            digits = start[0][:1] if before == r"\log " and mark == "_" else start[0]
            self._at += len(digits)
            content = digits
        if mark == "^" and re.fullmatch(r'\\circ ?|"?o"?|\\degree ?', content):
            return r"^{\circ}"
        if mark == "^" and content in ('"st"', '"nd"', '"rd"', '"th"'):
            return content
        return f"{mark}{{{content}}}"

    def _skip_blanks(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text[self._at : self._at + _MAX_ARGUMENT])
        self._at += match.end() if match else 0

    def argument(self, upright: bool = False) -> str:
        """A group, a command with its own arguments, or one digit or letter."""
        self._skip_blanks()
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[0] == "}":
            return ""
        if match[0] == "{":
            self._at = match.end()
            return self.group(upright)
        if match[0][0] == "\\":
            self._at = match.end()
            self._deeper(1)
            piece = self._item(match[0], upright).strip()
            self._deeper(-1)
            return piece
        self._at += 1
        return self._text[self._at - 1]

    def _command(self, name: str, upright: bool) -> str:
        name = ALIASES.get(name, name)
        if name in DROPPED:
            if name in ("left", "right", "middle") or name.lower().startswith("big"):
                self._skip_blanks()
                self._at += self._text[self._at : self._at + 1] == "."
            return ""
        if name in DROPPED_ARGUMENTS:
            before = self._before
            self._skip(_OPTION)
            for _ in range(DROPPED_ARGUMENTS[name]):
                self.argument()
            self._before = before
            return ""
        if name in DROPPED_LENGTH:
            self._skip(_LENGTH)
            return ""
        if name in UPRIGHT and (word := _ONE_WORD.match(self._text, self._at)):
            function = FUNCTIONS.get(word[1]) or ALIASES.get(word[1])
            if function in FUNCTIONS and not is_unit(word[1]):
                self._at = word.end()
                return self._function(function, upright)
        if name in UNWRAPPED or name in UPRIGHT:
            return self._braces(self.argument(upright or name in UPRIGHT), "")
        if name in ("frac", "binom"):
            return f"\\{name}{{{self.argument(upright)}}}{{{self.argument(upright)}}}"
        if name == "sqrt":
            return self._root(upright)
        if name in ("SI", "qty", "unit", "si"):
            value = self.argument() if name in ("SI", "qty") else ""
            unit = re.sub(r"\\([a-z]{4,5})\s*\\", r"\\\1", self.argument_text()).replace("\\", " ")
            return value + Scanner(rf"0\mathrm{{{unit}}}").group(upright=False)[1:]
        if name in MARKS:
            content = self.argument(upright)
            is_font = name.startswith("math") and content.isdigit()
            return content if is_font else f"\\{name}{{{content}}}"
        if name == "begin":
            return self._environment()
        return SYMBOLS.get(f"\\{name}") or f"\\{name} "

    def argument_text(self) -> str:
        """The text of a group as it stands."""
        start = self._at
        self.argument()
        return self._text[start : self._at].strip("{} ")

    def _root(self, upright: bool) -> str:
        index = ""
        self._skip_blanks()
        if self._text[self._at : self._at + 1] == "[":
            self._at += 1
            index = f"[{self.group(upright, until=']')}]"
            self._skip_blanks()
        if self._text[self._at : self._at + 1] == "(":
            self._at += 1
            return rf"\sqrt{index}{{{self.group(upright, until=')')}}}"
        return rf"\sqrt{index}{{{self.argument(upright)}}}"

    def _environment(self) -> str:
        """A matrix keeps its cells, a system of equations becomes a list."""
        name = self.argument_text().rstrip("*")
        if name == "array":
            self.argument()
        content = self.group(upright=False, until=r"\end")
        self.argument()
        rows = [_ALIGNMENT.sub("", row) for row in content.split(r"\\") if row.strip(" &,")]
        if name in LISTS or (name == "array" and all("=" in row for row in rows)):
            return ", ".join(_BESIDE.sub('"if"', row.strip(" &,.")) for row in rows)
        name = "matrix" if name in MATRICES else name
        return rf"\begin{{{name}}}{content}\end{{{name}}}"

    def _function(self, name: str, upright: bool) -> str:
        if name == "cbrt":
            self._text = f"{self._text[: self._at]}[3]{self._text[self._at :]}"
        return self._root(upright) if name in ("sqrt", "cbrt") else f"\\{name} "

    def _letters(self, run: str, upright: bool, before: str, spaced: bool) -> str:
        """A run of Latin letters: a function, a word, a unit after a number, or a product."""
        follows = self._text[self._at : self._at + 4]
        in_unit = before.endswith('"') or before in ('"/', r"\mu ")
        after_value = bool(_ENDS_A_VALUE.search(before)) or in_unit
        in_unit = in_unit or bool(re.match(r"/[smh](?![a-zA-Z])", follows))
        is_single = len(run) == 1
        if (
            after_value
            and follows[:1] != "("
            and (upright or in_unit or not is_single)
            and is_unit(run, bare=not upright or (in_unit and is_single))
        ):
            return f'"{run}"'
        if (function := FUNCTIONS.get(run)) is not None:
            return self._function(function, upright)
        if upright or len(run) == 1:
            return f'"{run}"' if len(run) > 1 else run
        if before[-1:] == "(" and follows[:1] == ")" and is_unit(run):
            return f'"{run}"'
        if match := re.fullmatch(r"(arcsin|arccos|arctan|sin|cos|tan|cot|ln|log)([xytn])", run):
            return f"\\{match[1]} {match[2]}"
        order = sorted(map(ord, run))
        neighbours = all(b - a == 1 for a, b in pairwise(order))
        is_word = _NAME_OR_NUMERAL.fullmatch(run) or run.lower() in PLAIN_WORDS
        if is_word or (len(run) > 3 and not neighbours):
            return f'"{run}"' if spaced or not after_value else run
        return run
