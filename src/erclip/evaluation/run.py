"""`erclip eval`: problems → responses → verdicts → numbers, in chunks that survive a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from erclip.config import ModelConfig
from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.evaluation.benchmarks import Benchmark, load_benchmark, load_data
from erclip.evaluation.chunks import Chunk, plan
from erclip.evaluation.problems import gold_fields
from erclip.evaluation.settings import EvaluationSettings
from erclip.machine.files import append, write_json
from erclip.machine.locks import Lock
from erclip.records import Grade, Response, Sample
from erclip.runs.circumstances import circumstances
from erclip.seeds import derive_seed
from erclip.statistics import mean_of_sets
from erclip.tasks.base import Wording
from erclip.tasks.repeats import problem_of
from erclip.training.batches import make_batch
from erclip.training.outcomes import Outcome, summarise
from erclip.training.packing import micro_batches
from erclip.training.policy import Policy, load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler, encode_prompt
from erclip.training.sampling.base import without_template

COMMAND = "erclip eval"
MAX_TOKENS = 4096
TOKEN_BUDGET = 16_384

Observer = Callable[[str, int, int], None]  # set, responses that are there, responses in all


def run_evaluation(
    settings: EvaluationSettings,
    out: Path,
    data_dir: Path | None = None,
    observer: Observer = lambda *_: None,
    lock: Lock | None = None,
) -> dict[str, Any]:
    """Evaluate, or continue an evaluation that was stopped; the content of result.json.

    The folder is locked meanwhile: by the `lock` that the caller has on it, or by one of its own.
    """
    with lock or Lock(out, COMMAND):
        folder.sweep(out)
        return _run(settings, out, data_dir, observer)


def _run(
    settings: EvaluationSettings, out: Path, data_dir: Path | None, observer: Observer
) -> dict[str, Any]:
    asked = settings.model_dump(mode="json")
    folder.claim(out, asked)
    benchmarks = load_sets(settings, data_dir)
    head = "op" if settings.entropy else "logits"  # "logits" asks nothing of the model's head
    model = ModelConfig(
        path=settings.model, dtype=settings.dtype, device=settings.device, head=head
    )
    policy = load_policy(model, settings.temperature)
    max_tokens = fitting_tokens(policy, benchmarks, settings.max_tokens)
    plain = without_template(policy.tokenizer, settings.model)
    about = {
        "settings": asked,
        "max_tokens": max_tokens,
        "weights_sha256": weights_hash(policy.model),
        "texts": {benchmark.name: benchmark.text_sha256 for benchmark in benchmarks},
        "sources": {benchmark.name: benchmark.source for benchmark in benchmarks},
        "remarks": {
            benchmark.name: [*benchmark.remarks, *filter(None, [plain])] for benchmark in benchmarks
        },
        **circumstances(),
    }
    folder.begin(out, about)
    runner = _Runner(settings, max_tokens, policy, out, observer)
    for benchmark in benchmarks:
        runner.finish(benchmark)
    result = read_result(out, [benchmark.name for benchmark in benchmarks])
    write_json(out / folder.RESULT, result)
    return result


def load_sets(settings: EvaluationSettings, data_dir: Path | None) -> list[Benchmark]:
    """Every set that the settings name, cut to the limit."""
    wording = Wording(settings.instruction, settings.system_prompt)
    reading = (settings.after_think, settings.last_number, settings.answer_formats)
    sets = [load_benchmark(name, data_dir, wording, *reading) for name in settings.benchmarks]
    if settings.data is not None:
        sets.append(load_data(settings.data, wording, *reading, settings.columns))
    names = [benchmark.name for benchmark in sets]
    if len(set(names)) < len(names):
        raise UserError(f"--data {settings.data} has the name of a set: rename the file.")
    return [benchmark.limited(settings.limit) for benchmark in sets]


def fitting_tokens(policy: Policy, sets: Sequence[Benchmark], asked: int | None) -> int:
    """The longest response: what was asked for if the context has room for it."""
    prompts = [prompt for benchmark in sets for prompt in benchmark.prompts]
    longest = max(len(encode_prompt(policy.tokenizer, prompt)) for prompt in prompts)
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return asked or MAX_TOKENS
    room = context - longest
    if room < (asked or 1):
        what = f"--max-tokens {asked} does not fit" if asked else "No response fits"
        raise UserError(
            f"{what}: the model's context is {context} tokens, and the longest prompt takes "
            f"{longest}."
        )
    return asked or min(MAX_TOKENS, room)


def weights_hash(model: Any) -> str:
    """SHA-256 over names and values of all parameters, as loaded (so it depends on the dtype)."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_result(out: Path, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of every set, from the responses on disk."""
    sets = {}
    means = []
    for name in names:
        problems: dict[str, list[Outcome]] = {}
        for line in folder.read_responses(out, name):
            fields = {key: line[key] for key in Outcome.__dataclass_fields__}
            problems.setdefault(problem_of(line["prompt_id"]), []).append(Outcome(**fields))
        sets[name] = summarise(list(problems.values()))
        means.append([sum(o.correct for o in row) / len(row) for row in problems.values()])
    average = mean_of_sets(means).as_json() if len(names) > 1 else None
    return {"sets": sets, "mean_of_sets": average}


class _Runner:
    """Works off the chunks that are missing."""

    def __init__(
        self,
        settings: EvaluationSettings,
        max_tokens: int,
        policy: Policy,
        out: Path,
        observer: Observer,
    ):
        self.settings, self.max_tokens, self.policy = settings, max_tokens, policy
        self.out, self.observer = out, observer
        self.sampler = TransformersSampler(policy.model, policy.tokenizer, settings.batch_size)

    def finish(self, benchmark: Benchmark) -> None:
        """Sample, grade and write what is missing of one set.

        A chunk's seed comes from the set, its first problem and its first response.
        """
        chunks = plan(benchmark.prompts, self.settings.k, self.settings.batch_size)
        done = folder.keep_whole_chunks(
            self.out, benchmark.name, [chunk.slots() for chunk in chunks]
        )
        total = len(benchmark.prompts) * self.settings.k
        written = sum(len(chunk.slots()) for chunk in chunks[:done])
        self.observer(benchmark.name, written, total)
        started, fresh = time.perf_counter(), 0
        try:
            for chunk in chunks[done:]:
                lines = self._answer(benchmark, chunk)
                folder.append(self.out, benchmark.name, lines)
                fresh += len(lines)
                self.observer(benchmark.name, written + fresh, total)
        finally:
            if fresh:
                self._note_time(benchmark.name, fresh, time.perf_counter() - started)

    def _answer(self, benchmark: Benchmark, chunk: Chunk) -> list[folder.Line]:
        settings = self.settings
        drawing = SamplingSettings(
            chunk.responses, self.max_tokens, settings.temperature, settings.top_p, 1 << 30
        )
        seeds = [
            derive_seed(settings.seed, benchmark.name, prompt.id, chunk.first)
            for prompt in chunk.prompts
        ]
        groups = self.sampler.sample(chunk.prompts, drawing, seeds)
        responses = [response for group in groups for response in group]
        grades = benchmark.grade(responses)
        entropies: Sequence[float | None] = [None] * len(responses)
        if settings.entropy:
            entropies = mean_entropies(self.policy, responses)
        return [
            response_line(index, response, grade, entropy)
            for (_, index), response, grade, entropy in zip(
                chunk.slots(), responses, grades, entropies, strict=True
            )
        ]

    def _note_time(self, name: str, responses: int, seconds: float) -> None:
        line = {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "set": name,
            "responses": responses,
            "seconds": round(seconds, 3),
        }
        append(self.out / folder.TIMES, json.dumps(line) + "\n")


def response_line(
    index: int, response: Response, grade: Grade, entropy: float | None
) -> folder.Line:
    """One line of responses/<set>.jsonl; `erclip audit-grader` reads the same file."""
    prompt = response.prompt
    return {
        "prompt_id": prompt.id,
        "index": index,
        "prompt": "\n".join(message["content"] for message in prompt.messages),
        "response": response.text,
        "gold": gold_fields(prompt.gold),
        **vars(Outcome.of(response, grade, entropy)),
    }


@torch.no_grad()
def mean_entropies(policy: Policy, responses: Sequence[Response]) -> list[float]:
    """Mean entropy over each response's tokens: nats, whole vocabulary, at the temperature.

    One more forward pass. The sampler's own −log p would cost nothing, but is an estimate of it
    only without a nucleus.
    """
    samples = [Sample(response, Grade(False, None, "wrong"), 0.0, 0.0) for response in responses]
    found: dict[int, float] = {}
    for micro in micro_batches(policy.rows(samples, TOKEN_BUDGET), TOKEN_BUDGET):
        batch = make_batch(micro, pad_id=policy.pad_id, device=policy.device)
        entropies = policy.score(batch).entropies.double().sum(1) / batch.mask.sum(1)
        found.update(zip(map(id, batch.samples), entropies.tolist(), strict=True))
    return [found[id(sample)] for sample in samples]
