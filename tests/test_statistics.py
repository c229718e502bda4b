"""Intervals and estimators against closed forms, tables, enumeration, a bootstrap, a simulation."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erclip.statistics import (
    Interval,
    difference_interval,
    difference_of_sets,
    majority,
    mean_interval,
    mean_of_sets,
    pass_at,
)
from erclip.student import t_quantile

SHARES = st.lists(st.integers(0, 4).map(lambda c: c / 4), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("degrees", "table"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (29, 2.0452), (100, 1.9840)],
)
def test_t_quantiles_of_the_tables(degrees, table):
    assert t_quantile(degrees) == pytest.approx(table, abs=5e-5)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_t_quantiles_in_closed_form(level):
    assert t_quantile(1, level) == pytest.approx(math.tan(math.pi * level / 2), rel=1e-9)
    assert t_quantile(2, level) == pytest.approx(level * math.sqrt(2 / (1 - level**2)), rel=1e-9)
    normal = NormalDist().inv_cdf((1 + level) / 2)
    assert t_quantile(10_000, level) == pytest.approx(normal, rel=5e-4)


def test_the_mean_interval_by_hand():
    """P = 2: the values 1, 0.5 and the invented 1, 0 have mean 5/8 and variance 11/48."""
    half = 3.182446 * math.sqrt(11 / 48 / 4)
    assert mean_interval([1.0, 0.5])[:3] == pytest.approx(
        (0.75, max(0, 0.625 - half), 1.0), abs=1e-6
    )


def test_one_problem_says_nothing():
    assert mean_interval([1.0])[:3] == (1.0, 0.0, 1.0)
    assert difference_interval([1.0])[:3] == (1.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="at least one problem"):
        mean_interval([])


@given(SHARES)
def test_mean_intervals_hold_their_mean_and_mirror(means):
    interval = mean_interval(means)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    mirrored = mean_interval([1 - m for m in means])
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low))


@given(SHARES, SHARES)
def test_differences_change_sign_with_the_sides(a, b):
    there = difference_interval([y - x for x, y in zip(a, b, strict=False)])
    back = difference_interval([x - y for x, y in zip(a, b, strict=False)])
    assert -1 <= there.low <= there.mean <= there.high <= 1
    assert there[:3] == pytest.approx((-back.mean, -back.high, -back.low))


def test_one_more_solved_problem_never_lowers_the_interval():
    intervals = [mean_interval([1.0] * solved + [0.0] * (30 - solved)) for solved in range(31)]
    assert all(a.low <= b.low and a.high <= b.high for a, b in itertools.pairwise(intervals))


def test_many_problems_give_the_textbook_interval():
    means = np.random.default_rng(0).beta(2, 3, 5000)
    half = 1.96 * means.std(ddof=1) / math.sqrt(len(means))
    textbook = (means.mean(), means.mean() - half, means.mean() + half)
    assert mean_interval(means.tolist())[:3] == pytest.approx(textbook, abs=2e-4)


def test_the_interval_is_that_of_a_bootstrap_over_problems():
    generator = np.random.default_rng(1)
    means = generator.binomial(4, generator.beta(1, 1, 300)) / 4
    draws = generator.choice(means, (4000, len(means))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    interval = mean_interval(means.tolist())
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.004)


@pytest.mark.parametrize(("accuracy", "k"), [(0.02, 1), (0.1, 4), (0.5, 4), (0.97, 32)])
def test_thirty_problems_are_covered_where_the_plain_interval_fails(accuracy, k):
    generator = np.random.default_rng(2)
    problems = generator.beta(accuracy / 2, (1 - accuracy) / 2, (1500, 30))
    samples = generator.binomial(k, problems) / k
    held = [i.low <= accuracy <= i.high for i in map(mean_interval, samples.tolist())]
    assert np.mean(held) >= 0.935
    half = t_quantile(29) * samples.std(1, ddof=1) / math.sqrt(30)
    plain = np.mean(abs(samples.mean(1) - accuracy) <= half)
    assert (plain < 0.75) == (accuracy in (0.02, 0.97))


def test_single_responses_give_bonett_and_prices_interval():
    wins, losses, n = 9, 4, 40
    interval = difference_interval([1.0] * wins + [-1.0] * losses + [0.0] * (n - wins - losses))
    p, q = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = t_quantile(n + 1) * math.sqrt((p + q - (p - q) ** 2) / (n + 1))
    assert interval[:3] == pytest.approx(((wins - losses) / n, p - q - half, p - q + half))


@pytest.mark.parametrize(("wins", "shown"), [(4, False), (5, False), (6, True), (10, True)])
def test_wins_without_losses_are_judged_like_a_sign_test(wins, shown):
    """Two-sided: 5 of 5 is p = 0.0625, 6 of 6 is p = 0.031; ties say nothing."""
    assert (2 * 0.5**wins < 0.05) == shown
    interval = difference_interval([1.0] * wins + [0.0] * (30 - wins))
    assert interval.holds_zero == (not shown)


def test_equal_results_show_no_difference():
    interval = difference_interval([0.0] * 30)
    assert interval.holds_zero
    assert interval.high > 0.05


@pytest.mark.parametrize("of_sets", [difference_of_sets, mean_of_sets])
def test_sets_are_averaged_with_added_variances(of_sets):
    one = [0.0, 0.5, 0.25, 0.5, 0.0, 0.25]
    single = difference_interval(one) if of_sets is difference_of_sets else mean_interval(one)
    assert of_sets([one]) == pytest.approx(single)
    nine = of_sets([one] * 9)
    degrees = len(one) + 1
    shrunk = (single.high - single.low) / 3 * t_quantile(9 * degrees) / t_quantile(degrees)
    assert nine.mean == single.mean
    if of_sets is difference_of_sets:  # the other is cut at 0
        assert nine.high - nine.low == pytest.approx(shrunk)


def test_a_large_set_counts_no_more_than_a_small_one():
    assert mean_of_sets([[1.0] * 1000, [0.0] * 10]).mean == 0.5


@pytest.mark.parametrize("responses", range(1, 7))
def test_pass_at_is_the_share_of_subsets_with_a_correct_response(responses):
    for correct, k in itertools.product(range(responses + 1), range(1, responses + 1)):
        verdicts = [True] * correct + [False] * (responses - correct)
        subsets = list(itertools.combinations(verdicts, k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert pass_at(correct, responses, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("correct", "responses", "k"), [(3, 2, 1), (-1, 2, 1), (1, 2, 3), (1, 2, 0)]
)
def test_pass_at_refuses_what_it_cannot_estimate(correct, responses, k):
    with pytest.raises(ValueError, match=f"pass@{k} is undefined"):
        pass_at(correct, responses, k)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([("3", True), ("3", True), ("4", False)], 1.0),
        ([("3", True), ("4", False), ("4", False)], 0.0),
        ([("3", True), ("4", False)], 0.5),
        ([("3", True), ("4", False), ("5", False)], 1 / 3),
        ([("3", True), (None, False), (None, False)], 1.0),
        ([("33", True), ("33", False), ("33", False), ("8", True)], 1 / 3),
        ([(None, False)], 0.0),
        ([], 0.0),
    ],
    ids=[
        "won",
        "lost",
        "tie",
        "three-way tie",
        "abstentions",
        "right for wrong reasons",
        "none",
        "",
    ],
)
def test_majority(votes, expected):
    for order in itertools.permutations(votes):
        assert majority(order) == pytest.approx(expected)


def test_an_interval_that_touches_zero_holds_it():
    assert Interval(0.1, 0.0, 0.2).holds_zero
    assert not Interval(0.1, 0.01, 0.2).holds_zero


def problem_accuracies(generator, mean, spread, draws, problems):
    """Beta-distributed: a small `spread` means problems that are always or never solved."""
    return generator.beta(mean * spread, (1 - mean) * spread, (draws, problems))


@pytest.mark.slow
@pytest.mark.parametrize("problems", [10, 30])
def test_coverage_of_means(problems):
    """docs/evaluation.md quotes these."""
    generator = np.random.default_rng(3)
    for k, mean, spread in itertools.product((1, 4, 32), (0.02, 0.1, 0.5, 0.97), (0.5, 3)):
        accuracies = problem_accuracies(generator, mean, spread, 1000, problems)
        samples = (generator.binomial(k, accuracies) / k).tolist()
        held = np.mean([i.low <= mean <= i.high for i in map(mean_interval, samples)])
        assert held >= 0.93, (k, mean, spread)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "least"), [(1, 0.94), (4, 0.93), (32, 0.78)])
def test_coverage_of_differences(k, least):
    """30 problems; with `same` most problems are equally hard for both."""
    generator = np.random.default_rng(4)
    pairs = [(0.02, 0.02), (0.02, 0.06), (0.1, 0.2), (0.5, 0.5), (0.5, 0.6), (0.95, 0.97)]
    coverage = []
    for (a, b), spread, same in itertools.product(pairs, (0.5, 3), (0.0, 0.8)):
        first = problem_accuracies(generator, a, spread, 1000, 30)
        other = problem_accuracies(generator, b, spread, 1000, 30)
        other = np.where(generator.random(first.shape) < same, first, other)
        truth = (1 - same) * (b - a)
        samples = (generator.binomial(k, other) - generator.binomial(k, first)) / k
        held = [i.low <= truth <= i.high for i in map(difference_interval, samples.tolist())]
        coverage.append(np.mean(held))
    assert min(coverage) >= least
    assert np.median(coverage) >= 0.945
