r"""Reads TeX by TeX's rules for groups and arguments, and writes canonical LaTeX.

It decides what is typography (fonts, colours, sizes, spaces) and which letters are words,
functions, units or a product. `typography.canonical` says what the result looks like.
"""

from __future__ import annotations

import re
from itertools import pairwise

from erclip.grading.signs import SPELLINGS
from erclip.grading.tables import LATEX, WORDS, by_other_name, words
from erclip.grading.units import is_unit

_DROPPED = {name: int(n) for n in "012" for name in LATEX["dropped"][n].split()}
_LENGTHS = words(LATEX["dropped"]["length"])
_UNWRAPPED, _UPRIGHT, _MARKS = (
    words(LATEX["commands"][key]) for key in ("unwrapped", "upright", "marks")
)
_ENVIRONMENTS = {key: words(names) for key, names in LATEX["environments"].items()}
_FUNCTIONS = {name: name for name in LATEX["upright"]["names"].split()}
_FUNCTIONS |= by_other_name(LATEX["upright"]["others"])
_PLAIN_WORDS = words(WORDS["plain"])

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
_CALLED = re.compile(r"(arcsin|arccos|arctan|sin|cos|tan|cot|ln|log)([xytn])")
_SCRIPT = re.compile(r"\s*(?:(?P<bracket>\()|(?P<digits>-?\d+|-[a-zA-Z]))")
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
            if symbol == r"\rm" or (symbol in (r"\mathrm", r"\textrm") and not self._ahead(r"\{")):
                upright = True
                continue
            if symbol in (r"\over", r"\choose"):
                kind = r"\frac" if symbol == r"\over" else r"\binom"
                out = [f"{kind}{{{''.join(out)}}}{{{self.group(upright, until)}}}"]
                break
            before = out[-1] if out else ""
            if piece := self._item(symbol, upright, spaced):
                out += [" "] * _must_part(before, piece, spaced) + [piece]
                divides = piece in ("/", r"\cdot ") and self._before[-1:] == '"'
                self._before = '"/' if divides else piece
                spaced = False
        self._deeper(-1)
        return "".join(out)

    def _deeper(self, step: int) -> None:
        self._depth += step
        if self._depth > _MAX_DEPTH:
            raise TooDeep

    def _ahead(self, pattern: str | re.Pattern[str], *, skip: bool = False) -> re.Match[str] | None:
        """Whether the pattern stands here, behind blanks; with `skip` it is passed over."""
        pattern = re.compile(rf"\s*{pattern}") if isinstance(pattern, str) else pattern
        match = pattern.match(self._text[self._at : self._at + _MAX_ARGUMENT])
        self._at += match.end() if match and skip else 0
        return match

    def _item(self, symbol: str, upright: bool, spaced: bool = False) -> str:
        """One symbol with its arguments."""
        if symbol == "{":
            before = self._before
            return _braces(self.group(upright), before)
        if symbol in "^_":
            return self._script(symbol, upright)
        if symbol.isascii() and symbol.isalpha():
            return self._letters(symbol, upright, spaced)
        if symbol[0] == "\\" and symbol[1:2].isalpha():
            return self._command(symbol[1:].rstrip("*"), upright)
        if symbol.isalpha():
            return f'"{symbol}"'
        if symbol == "." and self._before.endswith('"'):
            return ""
        return {"*": r"\cdot ", "\\&": '"and"', "\\\\": r"\\", "~": ""}.get(symbol, symbol)

    def _script(self, mark: str, upright: bool) -> str:
        start = self._ahead(_SCRIPT)
        if start is None or (start["bracket"] and mark == "_"):
            content = self.argument(upright)
        elif start["bracket"]:
            self._at += start.end()
            content = self.group(upright, until=")")
        else:
            digit_alone = self._before == r"\log " and mark == "_"
            self._at += start.start("digits") + 1 if digit_alone else start.end()
            content = start["digits"][:1] if digit_alone else start["digits"]
        if mark == "^" and re.fullmatch(r'\\circ ?|"?o"?', content):
            return r"^{\circ}"
        if mark == "^" and content in ('"st"', '"nd"', '"rd"', '"th"'):
            return content
        return f"{mark}{{{content}}}"

    def argument(self, upright: bool = False) -> str:
        """A group, a command with its own arguments, or one digit or letter."""
        self._ahead("", skip=True)
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

    def _argument_text(self) -> str:
        """The text of a group as it stands."""
        start = self._at
        self.argument()
        return self._text[start : self._at].strip("{} ")

    def _command(self, name: str, upright: bool) -> str:
        if name in _DROPPED or name in _LENGTHS:
            return self._dropped(name)
        if name in _UPRIGHT and (word := self._ahead(_ONE_WORD)):
            function = _FUNCTIONS.get(word[1]) or SPELLINGS.get(f"\\{word[1]}", "")[1:]
            if function in _FUNCTIONS and not is_unit(word[1]):
                self._at += word.end()
                return self._function(function, upright)
        if name in _UNWRAPPED or name in _UPRIGHT:
            return _braces(self.argument(upright or name in _UPRIGHT), "")
        if name in ("frac", "binom"):
            return f"\\{name}{{{self.argument(upright)}}}{{{self.argument(upright)}}}"
        if name == "sqrt":
            return self._root(upright)
        if name in ("SI", "qty", "unit", "si"):
            value = self.argument() if name in ("SI", "qty") else ""
            unit = re.sub(r"\\([a-z]{4,5})\s*\\", r"\\\1", self._argument_text()).replace("\\", " ")
            return value + Scanner(rf"0\mathrm{{{unit}}}").group(upright=False)[1:]
        if name in _MARKS:
            content = self.argument(upright)
            is_font = name.startswith("math") and content.isdigit()
            return content if is_font else f"\\{name}{{{content}}}"
        return self._environment() if name == "begin" else f"\\{name} "

    def _dropped(self, name: str) -> str:
        """Nothing is written for typography, and what stood before it stays the neighbour."""
        before = self._before
        if name in _LENGTHS:
            self._ahead(_LENGTH, skip=True)
        elif name in ("left", "right", "middle") or name.lower().startswith("big"):
            self._ahead(r"\.", skip=True)
        elif _DROPPED[name]:
            self._ahead(_OPTION, skip=True)
            for _ in range(_DROPPED[name]):
                self.argument()
        self._before = before
        return ""

    def _function(self, name: str, upright: bool) -> str:
        if name in ("sqrt", "cbrt"):
            return self._root(upright, index="[3]" if name == "cbrt" else "")
        return f"\\{name} "

    def _root(self, upright: bool, index: str = "") -> str:
        if self._ahead(r"\[", skip=True):
            index = f"[{self.group(upright, until=']')}]"
        if self._ahead(r"\(", skip=True):
            return rf"\sqrt{index}{{{self.group(upright, until=')')}}}"
        return rf"\sqrt{index}{{{self.argument(upright)}}}"

    def _environment(self) -> str:
        """A matrix keeps its cells, a system of equations becomes a list."""
        name = self._argument_text().rstrip("*")
        if name == "array":
            self.argument()
        content = self.group(upright=False, until=r"\end")
        self.argument()
        rows = [_ALIGNMENT.sub("", row) for row in content.split(r"\\") if row.strip(" &,")]
        if name in _ENVIRONMENTS["list"] or (name == "array" and all("=" in row for row in rows)):
            return ", ".join(_BESIDE.sub('"if"', row.strip(" &,.")) for row in rows)
        name = "matrix" if name in _ENVIRONMENTS["matrix"] else name
        return rf"\begin{{{name}}}{content}\end{{{name}}}"

    def _letters(self, run: str, upright: bool, spaced: bool) -> str:
        """A run of Latin letters: a function, a word, a unit after a number, or a product."""
        follows, before = self._text[self._at : self._at + 4], self._before
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
        if (function := _FUNCTIONS.get(run)) is not None:
            return self._function(function, upright)
        if upright or is_single:
            return run if is_single else f'"{run}"'
        if before[-1:] == "(" and follows[:1] == ")" and is_unit(run):
            return f'"{run}"'
        if match := _CALLED.fullmatch(run):
            return f"\\{match[1]} {match[2]}"
        neighbours = all(b - a == 1 for a, b in pairwise(sorted(map(ord, run))))
        is_word = _NAME_OR_NUMERAL.fullmatch(run) or run.lower() in _PLAIN_WORDS
        is_word = is_word or (len(run) > 3 and not neighbours)
        return f'"{run}"' if is_word and (spaced or not after_value) else run


def _must_part(before: str, piece: str, spaced: bool) -> bool:
    """Whether a blank between two pieces means something."""
    pair = before[-1:] + piece[:1]
    if spaced and (pair[:1] == "," or re.fullmatch(r"[\d.]\d", pair)):
        return True
    return pair.isalpha() and re.search(r"\\[a-zA-Z]+$", before) is not None


def _braces(content: str, before: str) -> str:
    """Braces that only group vanish, unless they hold a sum or belong to an unknown command."""
    is_sum = re.search(r"(?<!^)[-+]", content) and '"' not in content
    if is_sum or (not content.startswith('"') and re.search(r"\\[a-zA-Z]+ ?$|\}$", before)):
        return f"{{{content}}}"
    return content
