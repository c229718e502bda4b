"""One measurement of erclip for `train.py`: a job as JSON in, a line of JSON out."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import erclip
from erclip.config.recipes import load_recipe
from erclip.embedded import embedded_model_dir
from erclip.training.producers import InTurns
from erclip.training.sampling import TransformersSampler
from erclip.training.trainer import Trainer
from train_work import peak_device_mib, peak_rss_mib, questions


def settings(job: dict, folder: Path) -> list[str]:
    rollouts = job["warmup"] + job["timed"]
    values = {
        "rollout.prompts": job["prompts"],
        "rollout.responses": job["responses"],
        "sampler.max_tokens": job["max_tokens"],
        "sampler.batch_size": job["prompts"] * job["responses"],
        "trainer.updates_per_rollout": job["updates"],
        "trainer.rollouts": rollouts,
        "trainer.learning_rate": 1e-6,
        "trainer.saved_samples": 0,
        "rollout.dynamic_sampling": json.dumps("drop" if job.get("drop") else "off"),
        "model.path": json.dumps(job["model"]),
        "model.device": json.dumps(job.get("device", "cpu")),
        "eval.prompts": 1,
        "eval.responses": 1,
        "eval.max_tokens": 1,
    }
    if not job["erc"]:
        values["loss.constraints"] = "[]"
    if job.get("fixed_length"):
        values["model.path"] = json.dumps(str(larger_model(folder, job)))
    if job["prompt_repeats"]:
        rows = [text for text in questions(job) for _ in range(rollouts)]
        for name, texts in (("data", rows), ("test", ["How many apples are in two boxes?"])):
            lines = [{"question": text, "answer": "#### 1"} for text in texts]
            path = folder / f"{name}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            values["data.path" if name == "data" else "data.test_path"] = json.dumps(str(path))
    if job["prompt_repeats"] or job.get("fixed_length"):
        reward, what = folder / "reward.py", "token_ids" if job.get("fixed_length") else "text"
        here = json.dumps(str(Path(__file__).parent))
        reward.write_text(
            f"import sys\nsys.path.append({here})\nfrom train_work import spread\n\n"
            f"def reward(response, grade):\n    return spread(str(response.{what}))\n"
        )
        values["reward.function"] = json.dumps(f"{reward}:reward")
    return [f"{key}={value}" for key, value in values.items()]


def larger_model(folder: Path, job: dict) -> Path:
    """The embedded model with room for long responses and `vocabulary_times` its vocabulary.

    The new rows of the head are random; rotary positions have no table that would have to grow.
    """
    model = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=torch.float32)
    times = job.get("vocabulary_times", 1)
    model.resize_token_embeddings(times * model.config.vocab_size, mean_resizing=False)
    model.config.max_position_embeddings += job["max_tokens"]
    path = folder / "model"
    model.save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    assert tokenizer is not None
    tokenizer.save_pretrained(path)
    return path


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = Trainer(load_recipe("quickstart", settings(job, folder)), folder / "run", Clock())
        if job.get("fixed_length"):  # an id that is next to never drawn: nothing ends early
            assert isinstance(trainer.producer, InTurns)
            assert isinstance(trainer.producer.sampler, TransformersSampler)
            trainer.producer.sampler.end_ids = [trainer.policy.tokenizer.unk_token_id]
        clock = trainer.observer
        assert isinstance(clock, Clock)
        trainer.train()
    lines = clock.lines[job["warmup"] :]
    timed, count = lines[1:], job["timed"]
    cpu = [b["cpu"] - a["cpu"] for a, b in pairwise(lines)]
    wall = sum(line["time/rollout_s"] for line in timed) / count
    tokens = sum(line["train/responses"] * line["train/response_length"] for line in timed) / count
    result = {
        "rollout_cpu_s": sum(cpu) / count,
        "rollout_wall_s": wall,
        "sample_s": sum(line["time/sample_s"] + line["time/grade_s"] for line in timed) / count,
        "score_s": sum(line["time/score_s"] for line in timed) / count,
        "update_s": sum(line["time/update_s"] for line in timed) / count,
        "tokens": tokens,
        "tokens_per_cpu_s": tokens * count / sum(cpu),
        "peak_rss_mib": peak_rss_mib(),
        "peak_device_mib": peak_device_mib(),
        "versions": f"erclip {erclip.__version__}, torch {torch.__version__}",
    }
    print(json.dumps(result))


class Clock:
    """CPU time before the first rollout and at the end of every one."""

    def __init__(self):
        self.lines: list[dict] = []

    def on_log(self, kind: str, rollout: int, metrics: dict) -> None:
        if kind == "rollout" or not self.lines:  # the first line is the evaluation before training
            self.lines.append({**metrics, "cpu": time.process_time()})

    def on_samples(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    main()
