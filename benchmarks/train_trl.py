"""One measurement of TRL's GRPOTrainer (loss_type "dapo", old log-probs) for `train.py`."""

from __future__ import annotations

import json
import sys
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from erclip.embedded import embedded_model_dir
from erclip.tasks import load_task
from train_work import peak_device_mib, peak_rss_mib, questions, spread


class Timed(GRPOTrainer):
    """Stock TRL with a clock around sampling and around the pass for old log-probs."""

    sample_s = score_s = 0.0
    tokens = 0

    def _generate(self, *args, **kwargs):
        start = time.perf_counter()
        out = super()._generate(*args, **kwargs)
        self.sample_s += time.perf_counter() - start
        self.tokens += sum(len(ids) for ids in out[1])
        return out

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        start = time.perf_counter()
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.score_s += time.perf_counter() - start
        return out


class Clock(TrainerCallback):
    """Readings before the first rollout and after every rollout's last update."""

    trainer: Timed

    def __init__(self, updates: int):
        self.updates, self.readings = updates, []

    def on_train_begin(self, *args, **kwargs):
        self.read()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.updates == 0:
            self.read()

    def read(self):
        t = self.trainer
        self.readings.append(
            (time.process_time(), time.perf_counter(), t.sample_s, t.score_s, t.tokens)
        )


def data_and_reward(job: dict):
    """The countdown task and its grader, or made-up questions and a reward that spreads."""
    rollouts = job["warmup"] + job["timed"]
    if job["prompt_repeats"]:
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in questions(job)]
        return Dataset.from_list(rows * rollouts), lambda completions, **_: [
            spread(message[0]["content"]) for message in completions
        ]
    task = load_task("countdown")
    from erclip.records import Response

    prompts = list(task.train[: job["prompts"] * rollouts])
    rows = [{"prompt": list(p.messages), "index": i} for i, p in enumerate(prompts)]

    def reward(completions, completion_ids, index, **_):
        responses = [
            Response(prompts[i], (), tuple(ids), message[0]["content"], False, ())
            for i, ids, message in zip(index, completion_ids, completions, strict=True)
        ]
        return [float(grade.correct) for grade in task.grade(responses)]

    return Dataset.from_list(rows), reward


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    rows, reward = data_and_reward(job)
    clock = Clock(job["updates"])
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            folder,
            loss_type="dapo",
            max_steps=job["updates"] * (job["warmup"] + job["timed"]),
            per_device_train_batch_size=job["prompts"] * job["responses"] // job["updates"],
            steps_per_generation=job["updates"],
            num_generations=job["responses"],
            max_completion_length=job["max_tokens"],
            epsilon_high=0.28,
            beta=0.0,
            learning_rate=1e-6,
            weight_decay=0.1,
            logging_steps=1,
            bf16=False,
            use_cpu=job.get("device", "cpu") == "cpu",
            report_to=[],
            save_strategy="no",
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = Timed(
            model=str(embedded_model_dir()) if job["model"] == "embedded" else job["model"],
            reward_funcs=reward,
            args=args,
            train_dataset=rows,
            callbacks=[clock],
        )
        clock.trainer = trainer
        trainer.train()
    first, last, count = clock.readings[job["warmup"]], clock.readings[-1], job["timed"]
    cpu, wall, sample, score, tokens = ((b - a) / count for a, b in zip(first, last, strict=True))
    result = {
        "rollout_cpu_s": cpu,
        "rollout_wall_s": wall,
        "sample_s": sample,
        "score_s": score,
        "update_s": wall - sample - score,
        "tokens": tokens,
        "tokens_per_cpu_s": tokens / cpu,
        "peak_rss_mib": peak_rss_mib(),
        "peak_device_mib": peak_device_mib(),
        "versions": f"trl {trl.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
