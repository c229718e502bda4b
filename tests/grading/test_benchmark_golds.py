"""Every gold of the seven public sets is graded against itself."""

import json
import os
from pathlib import Path

import pytest

from erclip.grading import Gold

SHARED = Path(
    os.environ.get("ERCLIP_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
BENCHMARKS = SHARED / "benchmarks"

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(),
    reason=f"needs the public benchmarks in {BENCHMARKS} (set ERCLIP_SHARED_DATA)",
)

# 1965 is a sentence ("f(x)=ax+b, where b is an arbitrary integer, ..."), 2045 lost its "\\in" and
# reads "t(0,4]". Only a response that spells them the same can be graded correct.
UNVERIFIABLE = {"olympiadbench": {"1965": "wrong", "2045": "parse_error"}}


def _olympiad(row):
    tolerance = float(row["error"]) if row["error"] else None
    return Gold(tuple(row["final_answer"]), row["is_multiple_answer"], row["unit"], tolerance)


GOLDS = {
    "aime24": (30, lambda row: row["reward_model"]["ground_truth"]),
    "aime25": (30, lambda row: row["reward_model"]["ground_truth"]),
    "hmmt25": (30, lambda row: row["answer"]),
    "amc23": (40, lambda row: str(row["answer"])),
    "math500": (500, lambda row: row["answer"]),
    "olympiadbench": (675, _olympiad),
    "gsm8k_test": (1319, lambda row: row["answer"].rpartition("####")[2].strip()),
}


def golds_of(name):
    count, read = GOLDS[name]
    lines = (BENCHMARKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == count
    rows = [json.loads(line) for line in lines]
    return {str(row.get("id", row.get("unique_id", i))): read(row) for i, row in enumerate(rows)}


@pytest.mark.parametrize("name", GOLDS)
def test_golds_verify_against_themselves(name, grader):
    """By value, not by spelling."""
    assert grader.check_golds(golds_of(name)) == UNVERIFIABLE.get(name, {})


@pytest.mark.parametrize("name", GOLDS)
def test_a_response_that_boxes_the_gold_is_correct(name, grader):
    golds = golds_of(name)
    pairs = []
    for gold in golds.values():
        text = ", ".join(gold.answers) if isinstance(gold, Gold) else gold
        pairs.append((f"So the answer is $\\boxed{{{text}}}$.", gold))
    grades = grader.grade_batch(pairs)
    assert [i for i, grade in zip(golds, grades, strict=True) if not grade.correct] == []
