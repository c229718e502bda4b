"""Golds dressed otherwise stay right, golds changed become wrong: thousands of pairs."""

import json
import random
import re
from itertools import pairwise

import pytest

from erclip.grading import Gold
from erclip.grading.guards import is_fair
from shared_data import shared_data

GOLDS = [
    *("12", "-7", "1,234", "3.5", r"\frac{3}{4}", r"-\frac{7}{2}", r"2\frac{1}{2}", "10^{6}"),
    *(r"2\sqrt{3}", r"\frac{\pi}{4}", "x^2+1", r"\sqrt[3]{5}", r"\frac{1+\sqrt{5}}{2}", "3+4i"),
    *(r"\ln 2", r"\log_2 5", r"\sin 20^\circ", "e^{2}", r"\binom{10}{3}", "5!", "|x-3|", "2n-1"),
    *("(1,2)", "[2,5)", r"(-\infty,3]", r"\{1,2,3\}", "1, 2", r"(-1,0)\cup(2,\infty)", r"\pm 5"),
    *(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "y=2x+1", r"x \ge 3", "f(x)=x^2", r"3 \pmod 7"),
    *(r"15\text{ cm}", r"90^\circ", r"50\%", r"\$20", "3:4", r"3:30 \text{ p.m.}", "1011_2"),
    *(r"\text{east}", "Yes", r"\text{(B)}", r"5\text{ million}", r"0.\overline{3}", r"\emptyset"),
]

# What never changes an answer.
DRESSINGS = {
    "dollars": "${}$",
    "display": r"\[{}\]",
    "braces": "{{{}}}",
    "box": r"\boxed{{{}}}",
    "bold": r"\mathbf{{{}}}",
    "colour": r"\textcolor{{red}}{{{}}}",
    "colour switch": r"{{\color{{blue}} {}}}",
    "size": r"\large {}",
    "style": r"\displaystyle {}",
    "thin spaces": r"\,{}\;",
    "full stop": "{}.",
    "check mark": r"{} \checkmark",
    "label": r"\text{{Answer: }} {}",
    "zero width": "\u200b{}\ufeff",
}
# What always changes it.
CHANGES = {
    "another": "{}, 98765",
    "either": r"{} \text{{ or }} 98765",
    "more": r"{} \text{{ or more}}",
    "negated": r"\text{{not }} {}",
    "million": r"{} \text{{ million billion}}",
    "wrong": r"{} \text{{ is wrong}}",
    "variable": r"({})\cdot q",
    "sum": "{} + 98765",
    "struck": r"\cancel{{{}}}",
    "inequality": r"{} \ne 98765",
    "dots": r"{}, \ldots",
}


def graded(grader, pairs):
    return grader.grade_batch([(rf"Hence $\boxed{{{answer}}}$", gold) for gold, answer in pairs])


@pytest.mark.parametrize("dressing", DRESSINGS)
def test_dress_changes_nothing(dressing, grader):
    pairs = [(gold, DRESSINGS[dressing].format(gold)) for gold in GOLDS]
    grades = graded(grader, pairs)
    assert [pair for pair, g in zip(pairs, grades, strict=True) if not g.correct] == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_answer_is_wrong(change, grader):
    pairs = [(gold, CHANGES[change].format(gold)) for gold in GOLDS]
    grades = graded(grader, pairs)
    assert [pair for pair, g in zip(pairs, grades, strict=True) if g.correct] == []


def test_no_gold_passes_for_another(grader):
    pairs = [(a, b) for a in GOLDS for b in GOLDS if a != b]
    equal = {("1, 2", "(1,2)"), (r"\frac{3}{4}", "3:4"), ("5!", r"\binom{10}{3}")}
    equal |= {("(1,2)", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")}
    equal |= {pair[::-1] for pair in equal}
    grades = graded(grader, pairs)
    found = {pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct}
    assert found <= equal


def _public_golds():
    folder = shared_data() / "benchmarks"
    golds = []
    for name, field in (("math500", "answer"), ("hmmt25", "answer"), ("olympiadbench", None)):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if field:
                golds.append(str(row[field]))
            elif not row["is_multiple_answer"] and not row["error"] and not row["unit"]:
                golds.append(row["final_answer"][0])
    return [gold for gold in dict.fromkeys(golds) if is_fair(gold) and len(gold) < 80]


def _digit_changed(gold, random_):
    """The gold with one of its digits replaced, or None."""
    places = [m.start() for m in re.finditer(r"\d", gold)]
    if not places:
        return None
    place = random_.choice(places)
    return gold[:place] + str((int(gold[place]) + random_.randrange(1, 9)) % 10) + gold[place + 1 :]


@pytest.mark.slow
def test_public_golds_under_mutation(grader):
    """Dressed golds are right; another gold, or one digit of another value, is not."""
    golds = _public_golds()
    unreadable = grader.check_golds({gold: Gold.of(gold) for gold in golds})
    golds = [gold for gold in golds if gold not in unreadable]
    dressed = [(g, d.format(g.strip("$"))) for g in golds for d in DRESSINGS.values()]
    lost = [p for p, g in zip(dressed, graded(grader, dressed), strict=True) if not g.correct]
    assert lost == []
    random_ = random.Random(0)
    changed = [(g, c) for g in golds for _ in range(4) if (c := _digit_changed(g, random_))]
    changed += [*pairwise(golds), *pairwise(golds[::-1])]
    kept = [p for p, g in zip(changed, graded(grader, changed), strict=True) if g.correct]
    assert [pair for pair in kept if not _same_by_sympy(*pair)] == []


def _same_by_sympy(gold, answer):
    """An independent look at the few mutations that leave the value as it is (0.10 for 0.1)."""
    import sympy
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    try:
        difference = latex2sympy(gold.strip("$ ")) - latex2sympy(answer.strip("$ "))
        return bool(abs(sympy.N(difference, 30)) < 1e-20)
    except Exception:
        return False
