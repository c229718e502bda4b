"""Random LaTeX, huge strings and control characters: no crash, no hang, always a verdict."""

import random
import time
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erclip.grading import Gold
from erclip.grading.extract import TAIL_CHARS, extract_answer
from erclip.grading.grader import quick_reason

REASONS = {
    "correct", "wrong", "no_answer", "parse_error", "timeout", "truncated", "guarded"
}  # fmt: skip
MEGABYTE = 1_000_000

PIECES = st.sampled_from(
    r"""0 1 7 12 3.5 .5 1,000 x y n e i \pi \infty + - * / ^ _ ! = < > \le \ge \ne \in \cup \cap
    \pm \mp \cdot \times ( ) [ ] { } \{ \} | , ; : . \frac \dfrac \sqrt \sqrt[3] \binom \sin \log
    \ln \sum_{k=1}^{n} \int_0^1 \lim_{x\to0} \lfloor \rfloor \text{cm} \text{and} \text{(B)} % \%
    ^\circ \left( \right) \begin{pmatrix} \end{pmatrix} & \\ \boxed{ \approx f(x) and or $ \$ \!
    \, {,} dx ' " ~ ` @ # ^{ _{ 9^{9^9} 100! \mathbb{R} \emptyset \overline{AB} \vec{v}""".split()  # noqa: SIM905
)
LATEX = st.lists(PIECES, max_size=14).map(" ".join) | st.lists(PIECES, max_size=10).map("".join)
TEXT = st.text(max_size=60) | LATEX
GOLDS = ["12", r"\frac{1}{2}", r"2\sqrt{3}", "x^2+1", "(1,2)", "1, 2", "[0,1)", r"\text{east}"]
GOLDS = [*GOLDS, Gold(("1,2", "3"), is_multiple=True), Gold(("4.2",), unit="%", tolerance=0.1)]
RELAXED = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(RELAXED, max_examples=800)
@given(text=TEXT, gold=st.sampled_from(GOLDS))
def test_the_calling_process_never_fails_and_never_takes_long(text, gold):
    begin = time.process_time()
    assert quick_reason(Gold.of(gold), text) in {*REASONS, None}
    assert time.process_time() - begin < 0.5


@settings(RELAXED, max_examples=200)
@given(text=TEXT)
def test_a_gold_of_any_text_meets_itself_or_is_refused(text):
    if not text.strip():
        return
    assert quick_reason(Gold.of(text), text) not in {"wrong"}


def check_with_workers(grader, texts):
    """One batch, so that both workers share the slow ones."""
    begin = time.monotonic()
    grades = grader.grade_batch(
        [(rf"\boxed{{{text}}}", GOLDS[i % len(GOLDS)]) for i, text in enumerate(texts)]
    )
    assert len(grades) == len(texts)
    assert {grade.reason for grade in grades} <= REASONS
    timeouts = sum(grade.reason == "timeout" for grade in grades)
    return timeouts, time.monotonic() - begin


@settings(RELAXED, max_examples=4)
@given(texts=st.lists(LATEX, min_size=20, max_size=20))
def test_workers_always_answer(grader, texts):
    check_with_workers(grader, texts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(RELAXED, max_examples=60)
@given(texts=st.lists(TEXT, min_size=100, max_size=100))
def test_workers_always_answer_for_long(grader, texts):
    timeouts, seconds = check_with_workers(grader, texts)
    assert seconds < 30 + timeouts * (grader._time_limit_s + 1)


def random_text(random_, depth=0):
    """A formula, signs of Unicode, deep brackets, digits, or two of these side by side."""
    kind = random_.randrange(6 if depth < 2 else 4)
    if kind == 0:
        return random_.choice((" ", "")).join(random_.choices(SYMBOLS, k=random_.randrange(1, 14)))
    if kind == 1:
        return "".join(random_.choices(SIGNS, k=random_.randrange(1, 40)))
    if kind == 2:
        opening = random_.choice(OPENINGS)
        inner = random_.choice(("1", "x", "", r"\infty", "cm"))
        count = random_.randrange(1, 60)
        return opening * count + inner + CLOSINGS.get(opening[-1], "") * random_.choice((count, 1))
    if kind == 3:
        return "".join(random_.choices("0123456789,. ", k=random_.randrange(1, 450)))
    if kind == 4:
        text = random_text(random_, depth + 1)
        place = random_.randrange(len(text) + 1)
        return text[:place] + random_.choice(SYMBOLS + SIGNS) + text[place:]
    between = random_.choice((",", " or ", "=", "<", " ", r"\text{ for }", " cm", ";", ":"))
    return between.join(random_text(random_, depth + 1) for _ in range(2))


SYMBOLS = r"""
    0 7 12 3.5 1,000 x e i \pi \infty + - * / ^ _ ! = < \le \ne \in \cup \pm \cdot ( ) [ ] {
    } \{ \} | , ; : . \dfrac \sqrt[3] \binom \sin \log \sum_{k=1}^{n} \int_0^1 \lfloor
    \text{cm} \text{ \% ^\circ \left( \begin{pmatrix} \end{pmatrix} \begin{array} & \\
    \over \rm \kern \phantom \SI{ \dot{3} \ldots \pmod{7} _{16} 0x1F 3:30 a.m. million €
    万 或 ⅓ ² ₁ √ ∛ ° Ω １２ 𝑥 é 1e999 10^{400} 1/0 0^0 \sqrt{-1} 0.\overline{3} 0.(3)
    C(5,2) \log_2 \sin^{-1} \text{for } Yes (C) Option ** &lt; \t
    """.split()  # noqa: SIM905
_RANGES = ((0x20, 0x250), (0x370, 0x460), (0x2000, 0x2300), (0xFF00, 0xFF60), (0x1D400, 0x1D440))
SIGNS = [chr(code) for low, high in _RANGES for code in range(low, high)]
OPENINGS = ("(", "[", r"\{", r"\frac{", "^{", r"\text{", "|", r"\begin{cases}", "-", r"\pm ", "(1,")
CLOSINGS = {"(": ")", "[": "]", "{": "}"}


def random_pairs(seed, count):
    """Golds and answers, every third answer a piece of its gold with something in it."""
    random_ = random.Random(seed)
    for i in range(count):
        gold, answer = random_text(random_), random_text(random_)
        if i % 3 == 0:
            answer = gold[: len(gold) // 2] + random_.choice(SYMBOLS) + gold[len(gold) // 2 :]
        if gold.strip():
            yield Gold.of(gold), answer


def test_random_golds_and_answers_never_fail_and_never_take_long():
    for gold, answer in random_pairs(seed=0, count=600):
        begin = time.process_time()
        assert quick_reason(gold, answer) in {*REASONS, None}, (gold, answer)
        assert time.process_time() - begin < 1.0, (gold, answer)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_pairs_get_the_same_verdict_alone_and_in_a_batch(grader):
    undecided = (p for p in random_pairs(seed=1, count=4000) if quick_reason(*p) is None)
    pairs = list(islice(undecided, 200))
    batch = grader._decide(pairs)
    for pair, reason in batch.items():
        if reason != "timeout":  # the clock's, which may decide otherwise another time
            assert grader._decide([pair])[pair] in (reason, "timeout"), pair


@pytest.mark.parametrize(
    "unit",
    [
        *("{", "}", r"\boxed{", r"\boxed{1} ", r"\boxed{1", "#### ", "9", "(", "^{", "\x00", " "),
        *(r"\frac{1}{", "1,", "</think>", "\\", "\\boxed ", "-", "é", "\ud800", "x=", r"\text{"),
        *("$", "\n", r"\pm", "$1$ and "),
    ],
)
def test_ten_megabytes(unit, grader):
    """Linear reading of a bounded tail, whatever fills it."""
    text = unit * (10 * MEGABYTE // len(unit))
    begin = time.process_time()
    for response in (text, text + r"\boxed{7}", rf"\boxed{{{text}}}"):
        grade = grader.grade(response, "7", last_number=True, after_think="think" in unit)
        assert grade.reason in REASONS
        assert len(grade.answer or "") <= 2000
    assert time.process_time() - begin < 5.0


def test_an_answer_before_the_tail_is_not_looked_for():
    assert extract_answer(r"\boxed{7}" + " " * TAIL_CHARS) is None
    assert extract_answer(r"\boxed{7}" + " " * (TAIL_CHARS - 9)) == "7"


@pytest.mark.parametrize("code", range(32))
def test_control_characters(code, grader):
    grade = grader.grade(rf"\boxed{{7{chr(code)}}}", "7")
    assert grade.reason in {"correct", "guarded"}
