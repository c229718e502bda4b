"""Whole runs of `erclip train` with vLLM, each a process of its own: an engine leaves traces."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.vllm

ENGINE = ["sampler.kind=vllm", "sampler.kv_cache_gib=0.25"]
REWARD = """
def ones(response, grade):
    return response.text.count("1") / 16
"""


def train(out, *overrides, program=("erclip",), engine=ENGINE):
    command = [sys.executable, "-m", *program, "train", "quickstart", "--out", str(out)]
    for override in (*engine, *overrides):
        command += ["--set", override]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def rollouts(out, kind="rollout"):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def learning(tiny, folder, *more):
    """A run whose reward is the share of ones among sixteen characters: easily learned."""
    (folder / "reward.py").write_text(REWARD)
    ended = train(
        folder / "run",
        f"model.path={tiny}",
        f"reward.function={folder}/reward.py:ones",
        *("sampler.max_tokens=16", "trainer.rollouts=8", "trainer.learning_rate=1e-3"),
        *("eval.prompts=4", "loss.importance=truncated_importance"),
        *more,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return rollouts(folder / "run")


def test_a_run_learns_and_the_engine_keeps_up(tiny, tmp_path):
    """The reward rises over the rollouts, and no rollout is drawn from old weights."""
    lines = learning(tiny, tmp_path)
    assert lines[-1]["train/reward"] > lines[0]["train/reward"] + 0.1
    trained = [line for line in lines if "sampler/kl" in line]  # with every reward equal, none is
    assert len(trained) >= 4
    assert max(line["sampler/logprob_diff"] for line in trained) < 1e-5
    assert max(abs(line["sampler/ratio_max"] - 1) for line in trained) < 1e-3


def test_score_centering_learns_with_the_engines_likely_tokens(tiny, tmp_path):
    centering = 'loss.terms=[{ kind = "score_centering", top = 8 }]'
    lines = learning(tiny, tmp_path, centering)
    assert lines[-1]["train/reward"] > lines[0]["train/reward"] + 0.1
    updates = rollouts(tmp_path / "run", "update")
    assert any(line["loss/score_centering"] != 0 for line in updates)


def test_an_engine_beside_the_trainer(tiny, tmp_path):
    """Sampling while training: one rollout ahead, each with weights of one version."""
    beside = "rollout.staleness=1", "rollout.overlap=true", "trainer.rollouts=10"
    lines = learning(tiny, tmp_path, *beside)
    assert lines[-1]["train/reward"] > lines[0]["train/reward"] + 0.1
    late = [line["staleness/max"] for line in lines if "staleness/max" in line]
    assert max(late) > 0
    assert all("time/trainer_wait_frac" in line for line in lines)


def test_a_run_repeats_itself(tiny, tmp_path):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(learning(tiny, tmp_path / name, "trainer.rollouts=2"))
    timeless = [
        [{k: v for k, v in line.items() if "time" not in k} for line in lines] for lines in runs
    ]
    assert timeless[0] == timeless[1]


def test_two_processes_have_an_engine_each(tiny, tmp_path):
    """LoRA, sharded over both: each engine follows with the merged weights, and both end well."""
    small = ["rollout.prompts=8", "trainer.updates_per_rollout=2", "sampler.max_tokens=16"]
    more = ["trainer.rollouts=3", "trainer.learning_rate=1e-2", "eval.prompts=4"]
    adapters = ["model.lora={rank=4}", "rollout.dynamic_sampling=off", f"model.path={tiny}"]
    (tmp_path / "reward.py").write_text(REWARD)
    reward = f"reward.function={tmp_path}/reward.py:ones"
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "erclip"]
    ended = train(tmp_path / "run", *small, *more, *adapters, reward, program=torchrun)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    lines = rollouts(tmp_path / "run")
    assert [line["train/responses"] for line in lines] == [64, 64, 64]
    assert max(line["sampler/logprob_diff"] for line in lines) < 1e-5
    saved = tmp_path / "run" / "checkpoints" / "rollout_00003"
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (tiny, saved))
    assert before.keys() == after.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (before[name] - after[name]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        # the embedded model's heads have 16 dimensions, which vLLM's CPU build does not know
        ("sampler.max_tokens=16", "vLLM cannot serve this model: "),
        ("sampler.kv_cache_gib=100000", "vLLM cannot serve this model: "),
        ("sampler.max_model_len=4096", "sampler.max_model_len = 4096, but the model's own limit"),
    ],
)
def test_vllms_own_reason_is_one_sentence(override, sentence, tmp_path):
    ended = train(tmp_path / "run", override)
    assert ended.returncode == 2
    assert f"erclip: {sentence}" in ended.stderr
    assert "Traceback" not in ended.stderr
