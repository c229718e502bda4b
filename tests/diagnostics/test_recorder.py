"""The ledger says what training saw and did, and keeping it changes nothing."""

from __future__ import annotations

import sys

import pytest
import torch

from diagnostics.conftest import lines, train
from erclip.config.recipes import load_recipe
from erclip.diagnostics import what_if
from erclip.errors import UserError
from erclip.runs.ledger import read_ledger
from erclip.runs.metrics import CORE_RULES
from erclip.training.recorder import Recorder


@pytest.fixture(scope="module")
def ledger(run):
    return read_ledger(run[0])


def test_every_second_update_has_a_row_per_token(run, ledger):
    updates = {line["update"]: line for line in run[1] if line["kind"] == "update"}
    kept = ledger.places["update"]
    assert kept.unique().tolist() == [2, 4, 6, 8]
    for update in (2, 4, 6, 8):
        here = kept == update
        assert int(here.sum()) == updates[update]["train/tokens"]
        assert ledger.places["update_in_rollout"][here].unique().tolist() == [
            updates[update]["update_in_rollout"]
        ]


def test_flags_and_entropies_are_those_that_were_logged(run, ledger):
    for line in run[1]:
        if line["kind"] != "update" or line["update"] % 2:
            continue
        here = ledger.places["update"] == line["update"]
        count = int(here.sum())
        for name, logged in (
            ("erc_low", "clip/erc_low_frac"),
            ("erc_high", "clip/erc_high_frac"),
            ("ppo_low", "clip/ppo_low_frac"),
            ("ppo_high", "clip/ppo_high_frac"),
        ):
            assert int(ledger.flags[name][here].sum()) == round(line[logged] * count)
        entropy = ledger.measures["new_entropy"][here].double().mean().item()
        assert entropy == pytest.approx(line["policy/entropy"], rel=1e-6)


def test_rules_applied_offline_clip_what_training_clipped(ledger):
    erc = what_if.erc_decision(ledger, 0.05, 0.05)
    ppo = what_if.ppo_decision(ledger, 0.2, 0.28)
    assert torch.equal(erc.low, ledger.flags["erc_low"])
    assert torch.equal(erc.high, ledger.flags["erc_high"])
    assert torch.equal(ppo.low, ledger.flags["ppo_low"])
    assert torch.equal(ppo.high, ledger.flags["ppo_high"])
    assert 0 < erc.clipped.sum() < len(ledger)


def test_tokens_texts_and_places_belong_together(run, ledger):
    responses: dict[tuple[int, int], list[tuple[int, str]]] = {}
    names = ("rollout", "response", "position", "token_id")
    for *place, position, token_id in zip(*(ledger.places[n].tolist() for n in names), strict=True):
        responses.setdefault(tuple(place), []).append((position, ledger.texts[token_id]))
    shown = [row for row in lines(run[0] / "tokens.jsonl") if "fired" in row]
    assert shown
    for row in shown:
        own = responses[row["rollout"], row["number"]]
        assert [text for _, text in own] == row["pieces"]
        assert [position for position, _ in own] == list(range(row["tokens"]))
        assert "".join(row["pieces"]).removesuffix("<eos>") == row["response"]


def test_the_report_gets_a_right_and_a_wrong_response_to_each_problem(run):
    shown = lines(run[0] / "tokens.jsonl")
    assert {row["rollout"] for row in shown} == {1, 2}
    assert 0 < len(shown) <= 32
    for row in shown:
        assert len(row["old_entropies"]) == len(row["fired"]) == len(row["pieces"])
        assert row["update_in_rollout"] == 4  # the last update of the rollout that is in the ledger
    kinds = [(row["rollout"], row["prompt_id"], row["correct"]) for row in shown]
    assert len(set(kinds)) == len(kinds)
    assert {correct for _, _, correct in kinds} == {True, False}


def test_fired_bits_follow_the_order_of_the_flags(run, ledger):
    row = max((r for r in lines(run[0] / "tokens.jsonl")), key=lambda r: sum(r["fired"]))
    here = (ledger.places["rollout"] == row["rollout"]) & (
        ledger.places["response"] == row["number"]
    )
    for bit, name in enumerate(CORE_RULES):
        assert [bool(f >> bit & 1) for f in row["fired"]] == ledger.flags[name][here].tolist()


def test_keeping_a_ledger_changes_no_number(run, tmp_path):
    without = train(tmp_path / "off")

    def timeless(rows):
        return [{k: v for k, v in row.items() if not k.startswith("time")} for row in rows]

    assert timeless(without) == timeless(run[1])
    assert not (tmp_path / "off" / "ledger").exists()
    shown = lines(tmp_path / "off" / "tokens.jsonl")
    assert all("old_entropies" in row and "new_entropies" not in row for row in shown)


def test_without_pyarrow_the_run_refuses_to_start(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    config = load_recipe("quickstart", ["ledger.every=10"]).config
    with pytest.raises(UserError, match=r"pip install 'erclip\[ledger\]'"):
        Recorder(config, None, tmp_path)
    Recorder(load_recipe("quickstart").config, None, tmp_path)


def test_no_ledger_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no ledger; train with --set ledger\.every=10"):
        read_ledger(tmp_path)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "update_000010.parquet").write_bytes(b"PAR1 half of a file")
    with pytest.raises(UserError, match=r"update_000010\.parquet cannot be read"):
        read_ledger(tmp_path)
