"""The public sets: where each comes from, how many problems it has, and which text is meant.

Several wordings of the same problems circulate. A set's identity is the SHA-256 of its problems'
texts and golds, which is in every result; `sha256` below is that of the text this project uses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from erclip.errors import UserError
from erclip.evaluation.problems import fold, text_hash
from erclip.extras import need
from erclip.grading import Grader
from erclip.grading.extract import DEFAULT_FORMATS
from erclip.machine.hub import from_hub
from erclip.records import Prompt
from erclip.tasks import load_task
from erclip.tasks.base import GradeFn, Wording
from erclip.tasks.load import math_grader
from erclip.tasks.repeats import Identifier, first_of_each, problem_of, repeats_remark
from erclip.tasks.rows import read_row
from erclip.tasks.sources import COMPRESSED, SUFFIXES, Located, name_of, read_rows


class Source(NamedTuple):
    """A set on the hub at a fixed revision, and the text this project uses."""

    hub_id: str  # owner/name[:config]
    split: str
    revision: str
    problems: int
    sha256: str


PLAIN = Wording()  # the problem alone


@dataclass(frozen=True)
class Benchmark:
    """Problems in a fixed order, their grader, and what identifies them."""

    name: str
    prompts: Sequence[Prompt]
    grade: GradeFn
    source: str
    text_sha256: str
    remarks: tuple[str, ...] = ()  # what a reader of the result should know

    def limited(self, limit: int | None) -> Benchmark:
        """The first `limit` problems with their copies; the hash stays that of the whole set."""
        kept = {problem_of(p.id) for p in first_of_each(self.prompts)[: limit or None]}
        return replace(self, prompts=[p for p in self.prompts if problem_of(p.id) in kept])


SOURCES: Mapping[str, Source] = {
    "aime24": Source(
        "HuggingFaceH4/aime_2024",
        "train",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        30,
        "afee2e48e37bcec76c8f23e8a17dfb75bd13320d93961c4e6c977d7f945e7569",
    ),
    "aime25": Source(
        "math-ai/aime25",
        "test",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        30,
        "adbd1207f46158fc0c3ac980d8067def62335657d5ff38575c978d3a41ddbcf8",
    ),
    "hmmt25": Source(
        "MathArena/hmmt_feb_2025",
        "train",
        "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
        30,
        "4244d12b1c93e908f752e3c300388658a82bd46590f0c17164f6be579a69a9f3",
    ),
    "amc23": Source(
        "math-ai/amc23",
        "test",
        "80815d37005feb82cd7f8fbc6901d5d3eff43057",
        40,
        "1b8329fdb6565547be9bb3c7dd4cf5693601c53e5dceaac7f763b6ec71508e5b",
    ),
    "math500": Source(
        "HuggingFaceH4/MATH-500",
        "test",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        500,
        "927ad2445ebbf5eea1d00c2ad3208e8d2ca48581be82f0decf4387056708323c",
    ),
    "olympiadbench": Source(
        "Hothan/OlympiadBench:OE_TO_maths_en_COMP",
        "train",
        "91184b52131e7fc9455fef848035173aea8cc01a",
        675,
        "6fc842b164e78b2f70679c1c5fd5f7c13e32a64c1a00de1ff9745192b2c63cb2",
    ),
    "gsm8k": Source(
        "openai/gsm8k:main",
        "test",
        "cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
        1319,
        "2634bccf2831b75d01aa91bca0db13c09d3c7df056e269b8688f45daa18ced94",
    ),
}

NAMES = (*SOURCES, "countdown")


def load_benchmark(
    name: str,
    data_dir: Path | None = None,
    wording: Wording = PLAIN,
    after_think: bool = False,
    last_number: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> Benchmark:
    """One set by name, from the folder `data_dir` or the hub; `countdown` is made here."""
    check_names([name])
    if name == "countdown":
        task = load_task("countdown")
        return Benchmark(name, task.test, task.grade, "erclip", text_hash(task.test))
    source = SOURCES[name]
    if data_dir is not None:
        file = find_file(name, data_dir)
        rows, origin = read_rows(str(file), ""), file.name
    else:
        rows, origin = _hub_rows(source), f"{source.hub_id}@{source.revision}"
    grade = math_grader(after_think, last_number, formats)
    return _benchmark(name, rows, origin, source, wording, grade)


def check_names(names: Iterable[str]) -> None:
    """Refuse a set that is not known, with those near it."""
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.6)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(NAMES)}."
            )
            raise UserError(f"No benchmark {name!r}; {hint}")


def load_data(
    path: str,
    wording: Wording = PLAIN,
    after_think: bool = False,
    last_number: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
    columns: Mapping[str, str] | None = None,
) -> Benchmark:
    """All rows of a file of one's own, in the formats that training reads."""
    rows = read_rows(path, "test")
    grade = math_grader(after_think, last_number, formats)
    return _benchmark(name_of(path), rows, Path(path).name, None, wording, grade, columns)


def find_file(name: str, folder: Path) -> Path:
    """`folder`/NAME or NAME_test with one of the suffixes that training reads."""
    stems = (name, f"{name}_test")
    suffixes = [*SUFFIXES, *(suffix + COMPRESSED for suffix in SUFFIXES)]
    for file in (folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes):
        if file.is_file():
            return file
    raise UserError(
        f"There is no {name}.jsonl in {folder}: put it there, or leave out --data-dir to load it "
        "from the hub."
    )


def _benchmark(
    name: str,
    rows: Iterable[Located],
    origin: str,
    known: Source | None,
    wording: Wording,
    grade: GradeFn,
    columns: Mapping[str, str] | None = None,
) -> Benchmark:
    identify = Identifier(name)
    prompts = []
    for row, where in rows:
        item = read_row(row, where, columns)
        asked = fold("\n".join(message["content"] for message in item.messages))
        messages = wording.dress(item.messages, where)
        prompts.append(Prompt(identify(asked), messages, item.gold, {"asked": asked}))
    if not prompts:
        raise UserError(f"{origin} holds no problems: give a file with at least one.")
    problems = first_of_each(prompts)
    sha256 = text_hash(problems)
    repeated = repeats_remark(prompts)
    remarks = [
        *(
            [f"{repeated}: responses to copies count as responses to one problem"]
            if repeated
            else ()
        ),
        *_unlike(known, len(problems), sha256),
        *_unverifiable(problems),
    ]
    return Benchmark(name, prompts, grade, origin, sha256, tuple(remarks))


def _hub_rows(source: Source) -> Iterator[Located]:
    """Rows at the pinned revision, which needs no network once it is in the cache."""
    asking = f"Loading {source.hub_id} from the hub"
    name, _, config = source.hub_id.partition(":")
    remedy = "give a folder of files with --data-dir, or connect"
    try:
        with from_hub("The data set", name, remedy):
            datasets = need("datasets", asking, ", or give a folder of files with --data-dir")
            rows = datasets.load_dataset(
                name, config or None, split=source.split, revision=source.revision
            )
    except UserError:
        raise
    except Exception as error:  # the library raises dozens of types for "not there" and "offline"
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source.hub_id} could not be loaded from the hub ({type(error).__name__}: {reason}); "
            "check the connection, or give a folder of files with --data-dir."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield Located(row, f"{source.hub_id} row {number}")


def _unlike(known: Source | None, problems: int, sha256: str) -> Iterator[str]:
    """How a public set differs from the one this project uses."""
    if known is not None and problems != known.problems:
        yield f"{problems} problems, not the usual {known.problems}"
    if known is not None and sha256 != known.sha256:
        yield "the text differs from the usual one: compare only with results of the same hash"


def _unverifiable(prompts: Sequence[Prompt]) -> Iterator[str]:
    """Golds that fail their own grader: other forms of the right answer may be called wrong."""
    with Grader() as grader:
        failed = grader.check_golds({prompt.id: prompt.gold for prompt in prompts})
    golds = {prompt.id: ", ".join(prompt.gold.answers) for prompt in prompts}
    for name, reason in failed.items():
        yield f"the gold of {name} does not verify against itself ({reason}): {golds[name][:60]}"
