"""A soft floor under what benchmarks/grading.py measures, by CPU time on a shared machine."""

import importlib.util
import random
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "grading.py"


@pytest.fixture(scope="module")
def benchmark():
    if not SOURCE.exists():
        pytest.skip(f"needs {SOURCE} (not part of an sdist)")
    spec = importlib.util.spec_from_file_location("benchmark_grading", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "count", "floor"),
    [
        ("integers", 2000, 500),
        ("arithmetic", 300, 40),
        ("functions", 300, 40),
        ("algebra", 300, 40),
    ],
)
def test_cost_with_one_tower_in_a_hundred(benchmark, grader, kind, count, floor):
    items = benchmark.poisoned(getattr(benchmark, kind)(random.Random(7), count), "tower")
    begin = time.process_time()
    grades = grader.grade_batch([(item.response, item.gold) for item in items])
    seconds = time.process_time() - begin
    assert [grade.reason for grade in grades] == [item.reason for item in items]
    assert count / seconds > floor


def test_algebra_in_workers_get_the_expected_verdicts(benchmark, grader):
    items = benchmark.sums(random.Random(7), 24)
    grades = grader.grade_batch([(item.response, item.gold) for item in items])
    assert [grade.reason for grade in grades] == [item.reason for item in items]
