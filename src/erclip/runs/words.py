"""Config values and numbers in words, as the tables of the report show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erclip.text import printable

__all__ = [
    "count",
    "duration",
    "flat",
    "hardware",
    "method_details",
    "method_name",
    "outcome",
    "printable",
]

_SURROGATES = {
    "gppo_clip": "GPPO",
    "ce_gppo_clip": "CE-GPPO",
    "reinforce": "REINFORCE",
    "cispo_clip": "CISPO",
    "gspo_clip": "GSPO",
    "sapo": "SAPO",
}


_RULES = {
    "erc": "ERC",
    "ppo": "range",
    "dual": "dual clip",
    "random": "random mask",
}


def rule(name: str) -> str:
    """Return what a rule of the loss is called that reports under this name.

    >>> rule("erc_low"), rule("dual"), rule("dppo_high"), rule("low_entropy")
    ('ERC, low side', 'dual clip', 'dppo, high side', 'low entropy')
    """
    stem, _, side = name.rpartition("_")
    if side in ("low", "high"):
        return f"{_RULES.get(stem, stem.replace('_', ' '))}, {side} side"
    return _RULES.get(name, name.replace("_", " "))


def method_name(loss: Any) -> str:
    """Return a loss section's name in the field's terms.

    >>> erc = {"kind": "entropy_ratio_clip"}
    >>> dapo = {"kind": "ppo_clip", "low": 0.2, "high": 0.28}
    >>> method_name({"surrogate": dapo, "constraints": [erc]})
    'ERC-DAPO'
    """
    if not isinstance(loss, Mapping):
        return "unknown"
    name = _surrogate_name(loss.get("surrogate"))
    for constraint in loss.get("constraints") or ():
        kind = constraint.get("kind") if isinstance(constraint, Mapping) else str(constraint)
        if kind == "entropy_ratio_clip":
            rule = str(constraint.get("rule") or "paper").replace("_", " ")
            soft = "soft " if constraint.get("softness") else ""
            name = f"{soft}ERC-{name}" if rule == "paper" else f"{soft}{rule} ERC-{name}"
        else:
            name = f"{name} with {_own_name(kind).replace('_', ' ')}"
    return name


def method_details(loss: Any) -> str:
    """Return every number of a loss section, in one line.

    >>> method_details({"surrogate": {"kind": "ppo_clip", "low": 0.2, "high": 0.28, "dual": None},
    ...                 "constraints": [{"kind": "random_mask", "rate": 0.2}]})
    'ppo_clip(low 0.2, high 0.28) · random_mask(rate 0.2)'
    """
    if not isinstance(loss, Mapping):
        return ""
    parts = [loss.get("surrogate"), *(loss.get("constraints") or ())]
    parts += [loss.get("importance"), *(loss.get("terms") or ())]
    words = [_call(part) for part in parts if isinstance(part, Mapping)]
    composed = ("surrogate", "constraints", "importance", "terms")
    rest = {name: loss[name] for name in loss if name not in composed}
    for name, value in rest.items():
        if value:
            words.append(name.replace("_", " ") + ("" if value is True else f" {value}"))
    return " · ".join(words)


def hardware(machine: Any) -> str:
    """Return the machine in one line.

    >>> hardware({"cpu": "Xeon", "cores": 2, "memory_gib": 7.6, "gpu": None})
    'Xeon, 2 cores, 7.6 GiB, no GPU'
    """
    if not isinstance(machine, Mapping):
        return ""
    cores, memory = machine.get("cores"), machine.get("memory_gib")
    words = [
        str(machine.get("cpu") or ""),
        f"{cores} cores" if cores else "",
        f"{memory:.3g} GiB" if isinstance(memory, int | float) else "",
        str(machine.get("gpu") or "no GPU"),
    ]
    return ", ".join(word for word in words if word)


def duration(seconds: float | None) -> str:
    """Return a time span with two units at most.

    >>> duration(48.26), duration(252), duration(11100)
    ('48.3 s', '4 min 12 s', '3 h 05 min')
    """
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: float | None) -> str:
    """Return a whole number with thousands apart, nothing for None.

    >>> count(1234567.0)
    '1,234,567'
    """
    return "" if number is None else f"{round(number):,}"


def flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested config as {"a.b": value}; list items are numbered.

    >>> flat({"loss": {"constraints": [{"low": 0.05}]}})
    {'loss.constraints.0.low': 0.05}
    """
    if isinstance(section, Mapping):
        items = section.items()
    elif isinstance(section, list) and any(isinstance(item, Mapping | list) for item in section):
        items = enumerate(section)
    else:
        return {prefix.rstrip("."): section}
    values: dict[str, Any] = {}
    for name, value in items:
        values |= flat(value, f"{prefix}{name}.")
    return values


def outcome(row: Mapping[str, Any]) -> str:
    """Return what became of a sampled response.

    >>> outcome({"correct": True}), outcome({"correct": False, "truncated": True})
    ('right', 'truncated')
    """
    if row.get("truncated"):
        return "truncated"
    return "right" if row.get("correct") else "wrong"


def _surrogate_name(surrogate: Any) -> str:
    if not isinstance(surrogate, Mapping):
        return "unknown"
    kind = surrogate.get("kind")
    if kind == "ppo_clip":
        return "PPO-clip" if surrogate.get("low") == surrogate.get("high") else "DAPO"
    return _SURROGATES.get(str(kind), _own_name(kind).replace("_", " "))


def _own_name(kind: Any) -> str:
    """A rule in a file, "my_rules.py:my_rule", goes by its own name."""
    return str(kind).rpartition(":")[2]


def _call(part: Mapping[str, Any]) -> str:
    settings = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in part.items()
        if name != "kind" and value is not None
    ]
    return f"{_own_name(part.get('kind', 'unknown'))}({', '.join(settings)})"
