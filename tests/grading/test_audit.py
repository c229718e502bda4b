"""Two graders on the same saved responses."""

import json
from pathlib import Path

import pytest

from erclip.errors import UserError
from erclip.grading.audit import audit

ROWS = [
    {"response": r"So $\boxed{\frac{1}{2}}$.", "gold": "1/2"},
    {"response": r"So $\boxed{3}$.", "gold": "4"},
    {"response": r"So $\boxed{\frac{1}{2^{99}}}$.", "gold": r"\frac{1}{2^{98}}"},
    {"response": r"So $\boxed{6}$.", "gold": "6m"},
    {"response": r"So $\boxed{5^{5^{5^{5^5}}}}$.", "gold": "3"},
    {"response": r"So $\boxed{189, 135}$.", "gold": {"answers": ["135,189"], "is_multiple": True}},
    {"response": "It is 7.", "gold": 7},
]


def test_the_disagreements_are_listed_with_their_lines(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n")
    found = audit(path, workers=1, time_limit_s=3.0)
    assert found.responses == len(ROWS)
    assert found.ours == {"correct": 2, "wrong": 3, "guarded": 1, "no_answer": 1}
    assert sum(found.theirs.values()) == len(ROWS)
    assert found.theirs["timeout"] + found.theirs.get("guarded", 0) == 1
    listed = [(d.line, d.answer, d.ours, d.theirs) for d in found.disagreements]
    assert listed == [
        (5, r"\frac{1}{2^{99}}", "wrong", "correct"),
        (7, "6", "wrong", "correct"),
        (11, "189, 135", "correct", "wrong"),
        (13, None, "no_answer", "correct"),
    ]
    assert found.agreement_frac == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"response": "a"}', '{"response": 1, "gold": "2"}'),
        *('{"response": "", "gold": ""}', '{"response": "a", "gold": {"answers": "1"}}'),
        '{"response": "a", "gold": {"answers": ["1"], "units": "cm"}}',
    ],
)
def test_a_line_that_is_no_response_is_named(tmp_path, text):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"response": "\\\\boxed{1}", "gold": "1"}\n' + text + "\n")
    with pytest.raises(UserError, match="line 2: expected an object"):
        audit(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.jsonl"):
        audit(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="is a device"):
        audit(Path("/dev/zero"))
