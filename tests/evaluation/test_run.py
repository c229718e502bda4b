"""An evaluation from model to numbers: fixed chunks, exact entropies, stops that leave no trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erclip.errors import UserError
from erclip.evaluation import folder, run
from erclip.evaluation.chunks import plan
from erclip.evaluation.pairs import read_evaluation
from erclip.evaluation.run import mean_entropies, run_evaluation
from erclip.evaluation.settings import check_settings
from erclip.records import Prompt
from erclip.tasks.countdown import judge, problems, question
from erclip.training.sampling import SamplingSettings, TransformersSampler

WANTED = {"model": "embedded", "benchmarks": ("countdown",), "limit": 24, "k": 2, "batch_size": 16}


def settings(**changes):
    return check_settings(**{**WANTED, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An evaluation that nothing interrupted: its folder and result."""
    out = tmp_path_factory.mktemp("eval") / "whole"
    return out, run_evaluation(settings(), out)


def lines(out):
    return folder.read_responses(out, "countdown")


def numbers_of(out):
    """The bytes that a continued evaluation has to share with an uninterrupted one."""
    return (out / "responses" / "countdown.jsonl").read_bytes(), (out / "result.json").read_bytes()


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 20))
def test_chunks_cover_every_response_once_and_in_order(count, k, batch_size):
    prompts = [Prompt(str(i), (), None) for i in range(count)]
    chunks = plan(prompts, k, batch_size)
    slots = [slot for chunk in chunks for slot in chunk.slots()]
    assert slots == [(str(i), j) for i in range(count) for j in range(k)]
    assert max(len(chunk.slots()) for chunk in chunks) <= batch_size


def test_the_numbers_are_those_of_the_responses(finished):
    out, result = finished
    rows = lines(out)
    assert Counter(row["prompt_id"] for row in rows) == Counter(
        dict.fromkeys(dict.fromkeys(row["prompt_id"] for row in rows), 2)
    )
    by_question = {question(problem): problem for problem in problems(9, 99)}
    verdicts = [judge(by_question[row["prompt"]], row["response"]) for row in rows]
    assert [row["correct"] for row in rows] == [verdict.correct for verdict in verdicts]
    numbers = result["sets"]["countdown"]
    assert numbers["problems"] == 24
    assert numbers["avg_at_k"]["mean"] == sum(row["correct"] for row in rows) / 48
    assert numbers["response_length"] == sum(row["tokens"] for row in rows) / 48
    assert json.loads((out / "result.json").read_text()) == result


def test_the_folder_says_what_was_asked(finished):
    about = json.loads((finished[0] / "evaluation.json").read_text())
    assert about["settings"]["temperature"] == 0.6
    assert about["max_tokens"] > 50  # the embedded model's context is 64
    assert len(about["weights_sha256"]) == len(about["texts"]["countdown"]) == 64
    assert about["versions"]["torch"] == metadata.version("torch")
    times = (finished[0] / "times.jsonl").read_text().splitlines()
    assert [json.loads(line)["responses"] for line in times] == [48]


def test_entropies_are_those_of_the_model(policy, countdown):
    """Against a plain softmax over all logits, one response at a time."""
    policy.temperature = 0.6
    sampler = TransformersSampler(policy.model, policy.tokenizer)
    groups = sampler.sample(list(countdown.test[:5]), SamplingSettings(2, 24, 0.6, 0.95), range(5))
    responses = [response for group in groups for response in group]
    for response, entropy in zip(responses, mean_entropies(policy, responses), strict=True):
        ids = torch.tensor([response.prompt_ids + response.token_ids])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, len(response.prompt_ids) - 1 : -1].double() / 0.6
        exact = torch.distributions.Categorical(logits=logits).entropy().mean().item()
        assert entropy == pytest.approx(exact, abs=1e-5)


def test_the_seed_changes_the_draws(finished, tmp_path):
    run_evaluation(settings(seed=1), tmp_path / "other")
    assert numbers_of(tmp_path / "other")[0] != numbers_of(finished[0])[0]


def test_a_whole_chunk_does_not_depend_on_the_limit(finished, tmp_path):
    run_evaluation(settings(limit=16), tmp_path / "fewer")
    assert lines(tmp_path / "fewer") == lines(finished[0])[:32]


def test_more_responses_than_fit_a_batch(tmp_path):
    result = run_evaluation(settings(limit=2, k=5, batch_size=3, entropy=False), tmp_path / "out")
    assert [row["index"] for row in lines(tmp_path / "out")] == [0, 1, 2, 3, 4] * 2
    assert result["sets"]["countdown"]["entropy"] is None
    assert list(result["sets"]["countdown"]["pass_at"]) == ["1", "2", "4", "5"]


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("chunks", "damage"), [(0, b""), (1, b'{"prompt_id": "countdown/'), (2, b"\0\0\0\n")]
)
def test_a_stopped_evaluation_continues_bit_for_bit(chunks, damage, finished, tmp_path):
    def stop_after(name, done, total):
        if done >= 16 * chunks:
            raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        run_evaluation(settings(), out, observer=stop_after)
    assert len(lines(out)) == 16 * chunks
    assert not (out / "result.json").exists()
    with (out / "responses" / "countdown.jsonl").open("ab") as file:
        file.write(damage)
    seen = []
    run_evaluation(settings(), out, observer=lambda name, done, total: seen.append(done))
    assert numbers_of(out) == numbers_of(finished[0])
    assert seen[0] == 16 * chunks


def test_half_a_chunk_is_done_again(finished, tmp_path):
    out = tmp_path / "out"
    run_evaluation(settings(), out)
    file = out / "responses" / "countdown.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:21]))
    run_evaluation(settings(), out)
    assert numbers_of(out) == numbers_of(finished[0])


@pytest.mark.slow
def test_a_killed_process_continues_bit_for_bit(tmp_path):
    """SIGKILL as soon as the first responses are on disk."""
    wanted = settings(limit=200)
    run_evaluation(wanted, tmp_path / "whole")
    out = tmp_path / "killed"
    options = ["--limit", "200", "--k", "2", "--batch-size", "16", "--out", str(out)]
    command = [sys.executable, "-m", "erclip", "eval", "embedded", "--benchmark", "countdown"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    file = out / "responses" / "countdown.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (file.exists() and file.stat().st_size):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
    assert not (out / "result.json").exists()
    assert 0 < len(lines(out)) < 400
    run_evaluation(wanted, out)
    assert numbers_of(out) == numbers_of(tmp_path / "whole")


def test_other_settings_are_refused_and_nothing_is_touched(finished):
    out, _ = finished
    before = numbers_of(out)
    with pytest.raises(UserError, match=r"temperature = 0.6, not 1.0"):
        run_evaluation(settings(temperature=1.0), out)
    assert numbers_of(out) == before


@pytest.mark.parametrize(
    ("function", "sentence"),
    [("weights_hash", "weights differ"), ("fitting_tokens", "limit of tokens")],
)
def test_another_model_is_refused(function, sentence, finished, monkeypatch):
    monkeypatch.setattr(run, function, lambda *_: 9)
    with pytest.raises(UserError, match=sentence):
        run_evaluation(settings(), finished[0])


def test_edited_responses_are_refused(tmp_path):
    out = tmp_path / "out"
    run_evaluation(settings(limit=8), out)
    file = out / "responses" / "countdown.jsonl"
    file.write_text(file.read_text().replace('"prompt_id": "countdown/', '"prompt_id": "other/'))
    with pytest.raises(UserError, match="does not hold the responses"):
        run_evaluation(settings(limit=8), out)


def test_folders_that_are_no_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        folder.claim(tmp_path / "file", {})
    with pytest.raises(UserError, match="holds other files"):
        folder.claim(tmp_path, {})
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list, not an object"):
        folder.claim(tmp_path, {})


def test_prompts_leave_room_for_responses(tmp_path):
    with pytest.raises(UserError, match=r"--max-tokens 60 does not fit: the model's context is 64"):
        run_evaluation(settings(max_tokens=60), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 0}, "--k 0 must be a whole number of at least 1"),
        ({"top_p": 1.5}, "--top-p 1.5"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"benchmarks": ()}, "Nothing to evaluate"),
        ({"benchmarks": ("gsm8k", "gsm8k")}, "names a set twice"),
        ({"after_think": True}, "--after-think has no effect on countdown"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(**changes)


def test_own_data_is_graded_and_kept_for_an_audit(tmp_path):
    data = tmp_path / "own.jsonl"
    data.write_text(
        '{"problem": "2 3 4=10", "answer": "10"}\n{"problem": "1+1", "answer": [2, 3]}\n'
    )
    wanted = settings(benchmarks=(), data=str(data), instruction="", last_number=True)
    result = run_evaluation(wanted, tmp_path / "out")
    rows = folder.read_responses(tmp_path / "out", "own")
    assert result["sets"]["own"]["problems"] == 2
    assert [row["gold"] for row in rows[:2]] == ["10", "10"]
    assert rows[2]["gold"]["answers"] == ["2", "3"]


def test_a_file_of_copies_is_as_many_problems_as_it_asks(tmp_path):
    """2 problems × 3 copies: the interval of 2 problems with 3 responses, not of 6 problems."""
    data = tmp_path / "own.csv"
    rows = ["2 3 4=10,10", "5 6 1=30,30"] * 3
    data.write_text("ask,key\n" + "".join(f"{row}\n" for row in rows))
    columns = {"prompt": "ask", "answer": "key"}
    wanted = settings(benchmarks=(), data=str(data), instruction="", k=1, columns=columns)
    numbers = run_evaluation(wanted, tmp_path / "out")["sets"]["own"]
    assert (numbers["problems"], numbers["k"]) == (2, 3)
    lines = folder.read_responses(tmp_path / "out", "own")
    assert len({line["prompt_id"] for line in lines}) == 6
    assert list(read_evaluation(tmp_path / "out").sets["own"]) == [
        line["prompt_id"] for line in lines[:2]
    ]
