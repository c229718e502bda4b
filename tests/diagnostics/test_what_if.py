"""Offline questions, worked by hand on six tokens."""

from __future__ import annotations

import math

import pytest
import torch

import erclip
from erclip.diagnostics import what_if
from erclip.diagnostics.ledger_page import ledger_sheet, numbers, ranges
from erclip.errors import UserError
from erclip.runs.ledger import Ledger, read_ledger
from erclip.runs.metrics import CORE_RULES

# old H, new H, log r, A, slope, token
ROWS = [
    (1.0, 1.06, 0.0, 1.0, 0.5, "a"),  # ρ high, its own update pushes it up
    (1.0, 1.06, 0.0, -1.0, 0.5, "a"),  # ρ high, but its own update pulls it back
    (1.0, 0.94, 0.3, 1.0, -0.5, "b"),  # ρ low, pushed down, past the range as well
    (1.0, 0.97, -0.3, -1.0, -0.5, "b"),  # inside the band, below the range
    (0.002, 0.004, 0.0, 1.0, 0.5, "c"),  # twice the entropy, of next to nothing
    (0.5, 0.5, 0.1, 0.0, 0.0, "c"),  # no advantage
]


@pytest.fixture
def ledger():
    old, new, gap, advantage, slope = (
        torch.tensor(column) for column in list(zip(*ROWS, strict=True))[:5]
    )
    tokens = [row[5] for row in ROWS]
    ids = torch.tensor([ord(token) for token in tokens])
    none = torch.zeros(len(ROWS), dtype=torch.bool)
    return Ledger(
        places={"token_id": ids, "update": torch.ones(len(ROWS))},
        texts={ord(token): token for token in tokens},
        measures={
            "old_logprob": torch.full((len(ROWS),), -1.0),
            "new_logprob": gap - 1,
            "old_entropy": old,
            "new_entropy": new,
            "slope": slope,
            "advantage": advantage,
        },
        flags=dict.fromkeys(CORE_RULES, none),
    )


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ((0.05, 0.05), [2], [0, 1, 4]),
        ((0.05, 0.05, "directional"), [2], [0, 4]),
        ((0.05, 0.05, "paper", 0.01), [2], [0, 1]),
        ((0.02, 0.07), [2, 3], [4]),
    ],
)
def test_bands(ledger, settings, low, high):
    decision = what_if.erc_decision(ledger, *settings)
    assert decision.low.nonzero()[:, 0].tolist() == low
    assert decision.high.nonzero()[:, 0].tolist() == high


def test_ranges_follow_the_advantage(ledger):
    decision = what_if.ppo_decision(ledger, 0.2, 0.28)
    assert decision.low.tolist() == [False, False, False, True, False, False]
    assert decision.high.tolist() == [False, False, True, False, False, False]


def test_quadrants(ledger):
    erc, ppo = what_if.erc_decision(ledger, 0.05, 0.05), what_if.ppo_decision(ledger, 0.2, 0.28)
    cells = {cell.label: cell for cell in what_if.quadrants(ledger, erc, ppo)}
    sixth = 1 / 6
    expected = {
        "A > 0, H rose": (2 * sixth, 1.0, 0.0, 0.0, 1.0),
        "A > 0, H fell": (sixth, 1.0, 1.0, 1.0, 1.0),
        "A < 0, H rose": (sixth, 1.0, 0.0, 0.0, 0.0),
        "A < 0, H fell": (sixth, 0.0, 1.0, 0.0, 0.0),
    }
    for label, values in expected.items():
        assert cells[label][1:] == pytest.approx(values), label


def test_levels_count_every_token_once(ledger):
    levels = what_if.by_entropy(
        ledger.measures["old_entropy"], what_if.erc_decision(ledger, 0.05, 0.05).clipped
    )
    found = {level.label: (level.tokens, level.clipped[0]) for level in levels if level.tokens}
    assert found == {"0.001 – 0.01": (1, 1.0), "0.5 – 1": (1, 0.0), "1 – 2": (4, 0.75)}
    assert sum(level.tokens for level in levels) == 6
    assert math.isnan(levels[0].clipped[0])


def test_most_clipped_tokens(ledger):
    words = what_if.most_clipped(ledger, what_if.erc_decision(ledger, 0.05, 0.05))
    assert [(word.text, word.clipped, word.count) for word in words] == [
        ("a", 2, 2),
        ("b", 1, 2),
        ("c", 1, 2),
    ]
    assert words[2].entropy == pytest.approx(0.251)
    assert words[2].clipped_entropy == pytest.approx(0.002)


def test_the_page_of_a_real_run(run):
    sheet = ledger_sheet(run[0], bands=(0.05,), clips=((0.2, 0.28),))
    trained, surrogate, paper, directional, clip, *others = sheet.tables[0].rows
    assert [row[0] for row in others] == [d.label for d in what_if.other_rules(read_ledger(run[0]))]
    assert trained[1:] == paper[1:]
    assert surrogate[1:] == clip[1:]
    assert float(directional[1].split()[0]) < float(paper[1].split()[0])
    assert len(sheet.plots) == 4


def test_the_smallest_change_is_shown_where_it_acts(run):
    free, spared = (
        ledger_sheet(run[0], bands=(0.05,), clips=((0.2, 0.28),), min_entropy_change=change)
        for change in (0.0, 1e9)
    )
    assert [row[0] for row in spared.tables[0].rows][2:4] == [
        "ERC ±0.05, paper, |ΔH| ≥ 1e+09",
        "ERC ±0.05, directional, |ΔH| ≥ 1e+09",
    ]
    assert spared.tables[0].rows[2][1] == "0.00 %"
    assert spared.tables[0].rows[0] == free.tables[0].rows[0]
    assert "no band clips the 100.0 % of tokens" in spared.sentences[-1]
    assert not [sentence for sentence in free.sentences if "min_entropy_change" in sentence]
    assert "none clips where H moved by less than 1e+09 nats" in spared.plots[0].caption
    assert "by its own settings (band −0.05/+0.05, paper rule)" in free.tables[0].caption


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (lambda run: numbers("0.05;0.1", "--beta"), "--beta '0.05;0.1' must be numbers"),
        (lambda run: ranges("0.2-0.28", "--clip"), "--clip '0.2-0.28' must be low:high"),
        (
            lambda run: ledger_sheet(run, bands=(-1.0,)),
            "low of entropy_ratio_clip must be at least",
        ),
    ],
)
def test_questions_that_are_none(run, question, complaint):
    with pytest.raises(UserError, match=complaint):
        question(run[0])


def test_other_rules_see_whole_responses_and_whole_mini_batches(ledger):
    """Two updates of two responses, shuffled: each rule as `policy_loss` has it on each update."""
    generator = torch.Generator().manual_seed(0)
    lengths = [(1, 4, 5), (1, 9, 3), (2, 4, 2), (2, 7, 6)]  # update, response, tokens
    rows = [(u, r, t) for u, r, n in lengths for t in range(n)]
    order = torch.randperm(len(rows), generator=generator).tolist()
    columns = torch.tensor([rows[i] for i in order]).T

    def normal():
        return torch.randn(len(rows), generator=generator)

    old = -normal().abs() - 0.05
    measures = {
        "old_logprob": old,
        "new_logprob": (old + 0.4 * normal()).clamp(max=-1e-3),
        "sampler_logprob": (old + 0.1 * normal()).clamp(max=-1e-3),
        "old_entropy": normal().abs(),
        "new_entropy": normal().abs(),
        "slope": normal(),
        "advantage": torch.where(columns[1] < 5, 1.0, -1.0),
    }
    places = dict(zip(("update", "response", "position"), columns, strict=True))
    many = Ledger({**places, "token_id": columns[2]}, {}, measures, ledger.flags)
    found = {decision.label: decision for decision in what_if.other_rules(many)}
    parts = [
        erclip.dppo_tv(), erclip.dppo_kl(), erclip.ipo(), erclip.kpop(), erclip.m2po(),
        erclip.sequence_mask(), erclip.top_entropy(), erclip.clip_b(), erclip.clip_v(),
    ]  # fmt: skip
    assert set(found) == {repr(part) for part in parts}
    for part in parts:
        expected = torch.zeros(len(rows), dtype=torch.bool)
        for update in (1, 2):
            own = [(r, n) for u, r, n in lengths if u == update]
            index = [[order.index(rows.index((update, r, t))) for t in range(n)] for r, n in own]
            padded = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(i) for i in index], True, padding_value=-1
            )
            given = {name: measures[c][padded] for name, c in what_if.COLUMNS.items()}
            out = erclip.policy_loss(erclip.reinforce(), [part])(**given, mask=padded >= 0)
            hit = torch.stack(list(out.clipped.values())).any(0)
            expected[padded[hit]] = True
        assert torch.equal(found[repr(part)].clipped, expected), part
    assert found["ipo(threshold=0.1)"].clipped.any()
    assert not found["ipo(threshold=0.1)"].two_sided
    assert found["dppo_tv(low=0.2, high=0.2)"].two_sided
    del measures["sampler_logprob"]
    assert set(found) > {decision.label for decision in what_if.other_rules(many)} > set()
