"""Results and comparisons as tables: for the terminal, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from erclip.evaluation.pairs import Comparison
from erclip.grading.audit import Audit
from erclip.pages.sheet import Sheet, Table, percent
from erclip.statistics import Interval

CELL = 60  # characters of an answer that a table shows


def result_sheet(result: Mapping[str, Any], remarks: Mapping[str, list[str]], title: str) -> Sheet:
    """One evaluation: a row per set."""
    accuracy, responses = [], []
    for name, numbers in result["sets"].items():
        k, entropy = numbers["k"], numbers["entropy"]
        accuracy.append(
            (
                name,
                str(numbers["problems"]),
                str(k),
                Interval(**numbers["avg_at_k"]).text(1, percent=True),
                percent(numbers["pass_at"][str(k)], 1),
                percent(numbers["maj_at_k"], 1),
            )
        )
        responses.append(
            (
                name,
                f"{numbers['response_length']:.0f}",
                percent(numbers["truncated_frac"], 1),
                percent(numbers["no_answer_frac"], 1),
                "–" if entropy is None else f"{entropy:.3f} nats",
            )
        )
    if result["mean_of_sets"] is not None:
        mean = Interval(**result["mean_of_sets"]).text(1, percent=True)
        accuracy.append(("mean of sets", "", "", mean, "", ""))
    columns = ("set", "problems", "k", "avg@k (95 % interval)", "pass@k", "maj@k")
    tables = [
        Table(title, columns, accuracy),
        Table("Responses", ("set", "tokens", "truncated", "no answer", "entropy"), responses),
    ]
    sentences = [f"{name}: {remark}" for name, row in remarks.items() for remark in row]
    return Sheet(title, sentences, [], tables)


def comparison_sheet(comparison: Comparison) -> Sheet:
    """Two evaluations: a row per set, differences in points."""
    rows = [
        (
            row.name,
            str(row.problems),
            percent(row.a, 1),
            percent(row.b, 1),
            row.difference.times(100).text(1, signed=True),
            row.verdict,
        )
        for row in comparison.rows
    ]
    headings = ("set", "problems", "A", "B", "B − A, points (95 % interval)", "")
    table = Table(f"A: {comparison.a}   B: {comparison.b}", headings, rows)
    name, problems, a, b, difference, verdict = rows[-1]  # over all sets, where there are several
    headline = (
        f"{verdict.capitalize()} ({name}, {problems} problems): A {a}, B {b}, {difference} points"
    )
    return Sheet("Two evaluations", [headline, *comparison.remarks], [], [table])


def audit_sheet(audit: Audit, title: str, rows: int = 50) -> Sheet:
    """Where two graders disagree, at most `rows` of them."""
    disagreements = [
        (str(d.line), d.gold[:CELL], (d.answer or "–")[:CELL], d.ours, d.theirs)
        for d in audit.disagreements[:rows]
    ]
    headings = ("line", "gold", "answer", "erclip", "math-verify")
    counts = [
        f"{name}: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        for name, verdicts in (("erclip", audit.ours), ("math-verify", audit.theirs))
    ]
    count = len(audit.disagreements)
    sentences = [
        f"{audit.responses} responses; the graders disagree on {count} "
        f"({percent(1 - audit.agreement_frac, 2)})",
        *(counts if audit.responses else ()),
        *([f"{count - rows} more disagreements are not shown"] if count > rows else ()),
    ]
    tables = [Table(title, headings, disagreements, labels=5)] if disagreements else []
    return Sheet(title, sentences, [], [*tables, kinds_table(audit)] if audit.responses else [])


def kinds_table(audit: Audit) -> Table:
    """Both kinds of disagreement by kind of answer; with labels, both graders' errors."""
    columns = {
        "responses": "responses",
        "only erclip": "only_ours",
        "only math-verify": "only_theirs",
    }
    if audit.is_labelled:
        columns |= {
            "erclip: false +": "our_false_positives",
            "false −": "our_false_negatives",
            "math-verify: false +": "their_false_positives",
            "false − ": "their_false_negatives",
        }
    rows = [
        (kind, *(str(getattr(count, field)) for field in columns.values()))
        for kind, count in sorted(audit.kinds.items())
    ]
    total = [sum(getattr(c, field) for c in audit.kinds.values()) for field in columns.values()]
    caption = "only erclip: correct for erclip alone; math-verify 0.9 as its documentation shows it"
    rows.append(("all", *map(str, total)))
    return Table("By kind of answer", ("kind", *columns), rows, caption)


def comparison_json(comparison: Comparison) -> str:
    """All numbers of a comparison, with the verdicts."""
    fields = asdict(comparison)
    fields["rows"] = [
        {**asdict(row), "difference": row.difference.as_json(), "verdict": row.verdict}
        for row in comparison.rows
    ]
    return json.dumps(fields, indent=2)
