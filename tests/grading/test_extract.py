"""How an answer may be announced, format by format."""

import pytest

from erclip.grading.extract import DEFAULT_FORMATS, FORMATS, check_formats, extract_answer

CASES = [
    ("boxed", r"so \boxed{4}", "4"),
    ("boxed", r"so \boxed4.", "4"),
    ("boxed", r"\boxed{4} and \boxed{5}", "5"),
    ("boxed", r"Put it in \boxed. It is 9.", None),
    ("tag", "<answer> 4 </answer>", "4"),
    ("tag", r"<answer>\boxed{4}</answer>", "4"),
    ("tag", "<answer>4", None),
    ("gsm8k", "so\n#### 1,234", "1,234"),
    ("gsm8k", "#### **18**", "18"),
    ("gsm8k", "#### Step 2", None),
    ("minerva", "Final Answer: The final answer is $[2,5)$. I hope it is correct.", "$[2,5)$"),
    ("dapo", "Step 1\nAnswer: $34$", "$34$"),
    ("dapo", "answer: x+1.", "x+1"),
    ("dapo", "Answer: 3.", "3"),
    ("dapo", "Answer: 3\nwait\nAnswer: 4", "4"),
    ("dapo", "The answer is 4", None),
    ("dapo", "**Answer:** 4", None),
    ("prose", "Hence the answer is $4$.", "$4$"),
    ("prose", "**Answer:** 4", "4"),
    ("prose", "所以答案是 5。", "5"),
]


@pytest.mark.parametrize(("name", "response", "answer"), CASES)
def test_format(name, response, answer):
    assert extract_answer(response, formats=(name,)) == answer


def test_every_format_has_a_case_and_a_name_that_is_checked():
    assert {name for name, _, _ in CASES} == set(FORMATS) == {*DEFAULT_FORMATS, "prose"}
    with pytest.raises(ValueError, match="answer format 'box' is not known: give boxed"):
        check_formats(("dapo", "box"))


def test_the_first_format_that_is_there_counts():
    text = "Answer: 1\n#### 2"
    assert extract_answer(text) == "2"
    assert extract_answer(text, formats=("dapo", "gsm8k")) == "1"
    assert extract_answer(text + r" \boxed{3}") == "3"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>\boxed{1}</think><answer>9</answer>", "9"),
        (r"<think>\boxed{9}", "9"),
        (r"<think>\boxed{1}</think> nothing", "1"),
        (r"<think>hm</think> \boxed{9} <think> wait", "9"),
    ],
)
def test_what_follows_the_thoughts_counts_first(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"it is \frac{3}{4}", r"\frac{3}{4}"),
        (r"it is \dfrac{3}{4}.", r"\dfrac{3}{4}"),
        ("ranges over 3-7", "7"),
        ("it is -7", "-7"),
        ("so x=−7", "−7"),
        ("it is 1e6", "1e6"),
        ("it is 3/4 of it", "3/4"),
        ("at 10:30", "10:30"),
        ("costs $1,200.", "$1,200"),
        ("no number", None),
    ],
)
def test_the_last_number(response, answer):
    assert extract_answer(response, last_number=True) == answer
    assert extract_answer(response) is None
