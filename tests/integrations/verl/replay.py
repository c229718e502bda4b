"""A run of `erclip verl` in a process of its own, and our trainer fed with its batches.

What reached every update is written down by `verl_cpu_rollout` and given to
`erclip.training.updates.Updater`, which must come to the same losses, fractions, gradient norms,
old scores and advantages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors import safe_open

from erclip.config import Config, ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.integrations.verl.modes import loss_config
from erclip.integrations.verl.settings import ERCPolicyLossConfig
from erclip.records import Grade, Response, Sample
from erclip.training.advantages import group_advantages
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.updates import Updater, score_old

STEPS, MINI_BATCHES, RANKS, GROUP = 3, 2, 2, 4
SECTION = {
    "erc_dapo": {"clip_high": 0.28, "dual": 10.0, "erc_rule": "paper", "positive_nll": 0.1},
    "erc_gppo": {"clip_high": 0.2, "dual": 10.0, "erc_rule": "directional"},
}
OURS = {  # verl's metric → ours; both pooled over micro-batches and ranks
    "actor/loss": "loss/policy",  # the whole loss, positive NLL included
    "actor/grad_norm": "grad/norm",
    "actor/policy/entropy": "policy/entropy",
    "actor/policy/kl_old": "policy/kl_old",
    "actor/ratio/mean": "ratio/mean",
}
FRACTIONS = ("erc_frac", "erc_low_frac", "erc_high_frac", "ppo_frac", "dual_frac")


def write_data(folder, countdown):
    rows = [
        {
            "prompt": list(prompt.messages),
            "data_source": "countdown",
            "reward_model": {"ground_truth": "0", "style": "rule"},
            "ability": "math",
        }
        for prompt in countdown.train[:64]
    ]
    path = folder / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def overrides(address, data, folder, capture, mode):
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    environment = "+ray_kwargs.ray_init.runtime_env.env_vars"
    section = {f"{actor}.policy_loss.{k}": v for k, v in SECTION[mode].items()}
    settings = {
        "actor_rollout_ref.model.path": embedded_model_dir(),
        "actor_rollout_ref.model.external_lib": (
            "[erclip.integrations.verl.worker,verl_cpu_rollout]"
        ),
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        f"+{actor}.fsdp_config.mixed_precision": "{param_dtype:fp32,reduce_dtype:fp32}",
        f"{actor}.ppo_mini_batch_size": 4,
        f"{actor}.ppo_max_token_len_per_gpu": 120,  # several micro-batches
        f"{actor}.optim.lr": 1e-3,
        f"{actor}.checkpoint.save_contents": "[model,optimizer,extra,hf_model]",
        f"{actor}.policy_loss.loss_mode": mode,
        **section,
        f"{rollout}.name": "cpu",
        f"{rollout}.n": GROUP,
        f"{rollout}.agent.num_workers": 1,
        "reward.num_workers": 1,
        "reward.custom_reward_function.path": "pkg://verl_cpu_rollout",
        "data.train_files": data,
        "data.val_files": data,
        "data.train_batch_size": 4 * MINI_BATCHES,
        "data.max_prompt_length": 32,
        "data.max_response_length": 16,
        "data.dataloader_num_workers": 0,
        "data.shuffle": False,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "trainer.n_gpus_per_node": 1,
        "trainer.nnodes": RANKS,
        "trainer.logger": "[console,file]",
        "trainer.save_freq": 1,
        "trainer.val_before_train": False,
        "trainer.total_training_steps": STEPS,
        "trainer.default_local_dir": folder / "checkpoints",
        **({"+ray_kwargs.ray_init.address": address} if address else {}),
        f"{environment}.ERCLIP_VERL_CAPTURE": capture,
        f"{environment}.VERL_FILE_LOGGER_PATH": capture / "metrics.jsonl",
    }
    return [f"{key}={value}" for key, value in settings.items()]


class Run:
    """One `erclip verl`: what it was told, what it logged, what its updates were given."""

    def __init__(self, address, data, folder, mode, name, *, extra=(), machine=()):
        """`machine` is a command that runs another command on that machine."""
        self.capture = folder / name
        self.capture.mkdir(parents=True)
        self.checkpoints = folder / "checkpoints"
        self.tracker = self.checkpoints / "latest_checkpointed_iteration.txt"
        arguments = [*overrides(address, data, folder, self.capture, mode), *extra]
        self.log = open(self.capture / "log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*machine, sys.executable, "-m", "erclip", "verl", *arguments],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ},
            cwd=folder,
        )

    def wait(self, until=lambda: False, limit_s=1500):
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None and not until():
            if time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"the run took more than {limit_s} s:\n{self.tail()}")
            time.sleep(0.05)
        return self.process.returncode

    def tail(self):
        self.log.flush()
        return (self.capture / "log").read_text()[-6000:]

    def saved(self):
        return int(self.tracker.read_text() or 0) if self.tracker.exists() else 0

    def metrics(self):
        lines = (self.capture / "metrics.jsonl").read_text().splitlines()
        return {line["step"]: line["data"] for line in map(json.loads, lines)}

    def updates(self):
        """Per update, the rows of all ranks; and the Ray nodes on which they ran."""
        files = defaultdict(list)
        nodes = set()
        for path in sorted(self.capture.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                nodes.add(file.metadata()["node"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            files[path.stem.split("_")[1]].append(tensors)
        return [files[number] for number in sorted(files)], nodes


class Replay:
    """Our trainer, from the same model, on what verl's updates were given."""

    def __init__(self, mode):
        self.policy = load_policy(ModelConfig(), temperature=1.0)
        loss = loss_config(ERCPolicyLossConfig(loss_mode=mode, **SECTION[mode]))
        trainer = {
            "learning_rate": 1e-3, "weight_decay": 0.01, "grad_clip": 1.0, "warmup_updates": 0,
        }  # fmt: skip
        config = Config.model_validate({"loss": loss.model_dump(), "trainer": trainer})
        self.updater = Updater(self.policy, config)
        self.near = 0

    def step(self, updates):
        """One step of verl: all its rows are scored, then its mini-batches are trained on."""
        rows = [[row for rank in update for row in self._rows(rank)] for update in updates]
        self._check_advantages([row for mini in rows for row in mini])
        scored = []
        for mini in rows:
            batch = make_batch(
                single_rows([r.sample for r in mini]), pad_id=0, device=self.policy.device
            )
            scored.append(score_old(self.policy, batch))
            for i, row in enumerate(mini):
                n = len(row.old_logprobs)
                for found, ours in (
                    (row.old_logprobs, scored[-1].old.logprobs[i, :n]),
                    (row.old_entropies, scored[-1].old.entropies[i, :n]),
                ):
                    torch.testing.assert_close(found, ours, rtol=0, atol=2e-5)
        results, self.near = [], 0
        for item in scored:
            results.append(self.updater.update([item], watch=self._watch))
        return {key: sum(r[key] for r in results) / len(results) for key in results[0]}

    def _watch(self, scored, new, out):
        """Tokens so close to the band's edge that rounding may decide."""
        for edge in (0.95, 1.05):
            self.near += int((((out.entropy_ratio - edge).abs() < 1e-4) & scored.batch.mask).sum())

    def _rows(self, rank):
        for i, length in enumerate(rank["responses_length"].tolist()):
            assert rank["response_mask"][i, :length].all()
            prompt = rank["prompts"][i, : rank["prompts_length"][i]].tolist()
            advantage, score = rank["advantages"][i, 0].item(), rank["scores"][i].item()
            response = Response(
                prompt=None,
                prompt_ids=tuple(prompt),
                token_ids=tuple(rank["responses"][i, :length].tolist()),
                text="",
                truncated=False,
                logprobs=(0.0,) * length,
            )
            yield SimpleNamespace(
                sample=Sample(response, Grade(score > 0, None, "correct"), score, advantage),
                score=score,
                old_logprobs=rank["old_log_probs"][i, :length],
                old_entropies=rank["entropy"][i, :length],
            )

    def _check_advantages(self, rows):
        groups = defaultdict(list)
        for row in rows:
            groups[row.sample.response.prompt_ids].append(row)
        assert {len(group) for group in groups.values()} == {GROUP}
        for group in groups.values():
            expected = group_advantages(torch.tensor([[row.score for row in group]]))[0]
            found = torch.tensor([row.sample.advantage for row in group])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def check_step(metrics, ours, near, tokens):
    for name, key in OURS.items():
        assert metrics[name] == pytest.approx(ours[key], abs=1e-5), name
    for name in FRACTIONS:
        slack = 1e-5 + (near / tokens if name.startswith("erc") else 0)
        assert metrics[f"actor/clip/{name}"] == pytest.approx(ours[f"clip/{name}"], abs=slack), name
    assert metrics["actor/erc/noise_frac"] == pytest.approx(0.0, abs=1e-2)


def compare(mode, pieces):
    """Our trainer after `pieces`: per step the updates that count, and verl's metrics (or None)."""
    replay = Replay(mode)
    for updates, metrics in pieces:
        ours = replay.step(updates)
        assert ours["clip/erc_frac"] > 0.01  # there was something to get wrong
        if metrics is not None:
            check_step(metrics, ours, replay.near, ours["train/tokens"])
    return replay.policy


def check_saved(run, policy):
    """The model folder of the last checkpoint is what our trainer ends with.

    AdamW divides by a gradient's size: where a gradient is all but zero, or a token sits on the
    band's edge, rounding decides the direction of a whole step, of 1e-3. Those weights are few.
    """
    folder = run.checkpoints / f"global_step_{STEPS}" / "actor" / "huggingface"
    saved = load_policy(ModelConfig(path=str(folder))).model.state_dict()
    ours = policy.model.state_dict()
    assert saved.keys() == ours.keys()
    gaps = torch.cat([(saved[name] - weight).abs().flatten() for name, weight in ours.items()])
    assert (gaps > 2e-5).float().mean() < 1e-3
    assert gaps.max() < 1e-3


def steps_of(updates):
    return [updates[i : i + MINI_BATCHES] for i in range(0, len(updates), MINI_BATCHES)]


def check_resumed(first, second, mode):
    """Two halves of one run are what our uninterrupted trainer does with their batches.

    Weights, AdamW's moments and the data order have to come back, or it would see other losses.
    """
    metrics = second.metrics()
    done = min(metrics) - 1
    assert 1 <= done < STEPS
    assert sorted(metrics) == list(range(done + 1, STEPS + 1))
    before, after = first.updates()[0], second.updates()[0]
    pieces = [(u, None) for u in steps_of(before)[:done]]
    pieces += [(u, metrics[done + 1 + i]) for i, u in enumerate(steps_of(after))]
    assert len(pieces) == STEPS
    check_saved(second, compare(mode, pieces))
    prompts = [
        {tuple(row) for ranks in step for rank in ranks for row in rank["prompts"].tolist()}
        for step, _ in pieces
    ]
    assert not prompts[0] & prompts[1], "a prompt came twice: the data loader started over"
    assert not prompts[1] & prompts[2]
