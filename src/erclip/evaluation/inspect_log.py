"""A finished evaluation as inspect_ai logs, one per set, for its viewer (extra `inspect`).

Written against inspect_ai 0.3.285. Nothing is computed here: numbers and verdicts are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.evaluation import folder
from erclip.extras import need
from erclip.machine.files import read_json, whole_file

SCORER = "erclip"
ASKING = "an inspect log"


def write_inspect_logs(path: Path, out: Path | None = None) -> list[Path]:
    """Write `<set>.eval` for every set of the evaluation in `path`; `inspect view` opens them."""
    write_eval_log = need("inspect_ai.log", ASKING).write_eval_log
    if not folder.is_evaluation(path):
        raise UserError(f"{path} is not the folder of an evaluation: it has no {folder.ABOUT}.")
    about = folder.read_about(path)
    if not (path / folder.RESULT).is_file():
        raise UserError(f"{path} is not finished: give its `erclip eval` command again.")
    result = read_json(path / folder.RESULT, "remove it and give the `erclip eval` command again")
    target = out or path / "inspect"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, numbers in result["sets"].items():
        file = target / f"{name}.eval"
        log = _log(name, numbers, about, folder.read_responses(path, name))
        with whole_file(file) as scratch:
            write_eval_log(log, str(scratch), format="eval")
        written.append(file)
    return written


def _log(name: str, numbers: Mapping[str, Any], about: Mapping[str, Any], lines: list) -> Any:
    api = need("inspect_ai.log", ASKING)
    values = {**numbers["avg_at_k"], "maj_at_k": numbers["maj_at_k"]}
    values |= {f"pass_at_{k}": value for k, value in numbers["pass_at"].items()}
    metrics = {key: api.EvalMetric(name=key, value=value) for key, value in values.items()}
    score = api.EvalScore(name=SCORER, scorer=SCORER, metrics=metrics)
    model = f"erclip/{Path(about['settings']['model']).name}"
    ids = list(dict.fromkeys(line["prompt_id"] for line in lines))
    spec = api.EvalSpec(
        created=about["started"],
        task=name,
        model=model,
        dataset=api.EvalDataset(
            name=name, location=about["sources"][name], samples=len(ids), sample_ids=ids
        ),
        config=api.EvalConfig(epochs=numbers["k"]),
        packages={"erclip": about["versions"].get("erclip", "")},
        metadata={"settings": about["settings"], "text_sha256": about["texts"][name]},
    )
    results = api.EvalResults(
        total_samples=len(lines), completed_samples=len(lines), scores=[score]
    )
    samples = [_sample(line, model) for line in lines]
    return api.EvalLog(status="success", eval=spec, results=results, samples=samples)


def _sample(line: folder.Line, model: str) -> Any:
    log, model_api, scorer = (
        need(f"inspect_ai.{part}", ASKING) for part in ("log", "model", "scorer")
    )
    gold = line["gold"]
    stop = "max_tokens" if line["truncated"] else "stop"
    output = model_api.ModelOutput.from_content(model, line["response"], stop_reason=stop)
    score = scorer.Score(
        value=scorer.CORRECT if line["correct"] else scorer.INCORRECT,
        answer=line["answer"],
        explanation=line["reason"],
        metadata={"tokens": line["tokens"], "entropy": line["entropy"]},
    )
    return log.EvalSample(
        id=line["prompt_id"],
        epoch=line["index"] + 1,
        input=line["prompt"],
        target=list(gold["answers"]) if isinstance(gold, dict) else gold,
        messages=[model_api.ChatMessageUser(content=line["prompt"]), output.message],
        output=output,
        scores={SCORER: score},
    )
