"""The warm-up: its data, its repeatability, its stopping."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from erclip.errors import UserError
from erclip.models.architecture import SHAPES, build_model, build_tokenizer
from erclip.models.demonstrators import DEMONSTRATORS, countdown
from erclip.models.warmup import IGNORED, WarmUp, collate, encode, token_loss, warm_up
from erclip.records import Prompt, Response
from erclip.tasks import load_task
from erclip.tasks.countdown import Problem, judge

PROMPT = Prompt("p", ({"role": "user", "content": "3 7 12=33"},), Problem((3, 7, 12), 33))


def test_same_seed_same_weights(tmp_path: Path) -> None:
    heard: list[WarmUp] = []
    steps = {"steps": 4, "check_every": 2, "batch_size": 8, "check_prompts": 8}
    first = warm_up(tmp_path / "a", seed=1, report=heard.append, **steps)
    second = warm_up(tmp_path / "b", seed=1, **steps)
    warm_up(tmp_path / "c", seed=2, **steps)
    assert first == second == heard[-1]
    assert [check.steps for check in heard] == [2, 4]
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.model_type == "llama"


def test_the_caller_s_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    warm_up(tmp_path / "a", steps=1, check_every=1, batch_size=2, check_prompts=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match="not empty"):
        warm_up(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"task": "gsm8k"}, "No warm-up for the task 'gsm8k': .* countdown, reasoning-gym:"),
        ({"size": "7"}, "No size '7': there are 0.1, 0.6, 3"),
    ],
)
def test_unknown_tasks_and_sizes_are_refused(tmp_path: Path, wrong, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        warm_up(tmp_path / "a", **wrong)


@pytest.mark.parametrize("size", SHAPES)
def test_a_size_is_what_it_says(size: str) -> None:
    model = build_model(build_tokenizer(), 0, size)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(float(size), rel=0.4)


def test_countdown_attempts_calculate_rightly_and_mostly_miss() -> None:
    draw = random.Random(0)
    solved = {countdown(PROMPT, True, draw) for _ in range(20)}
    texts = sorted({countdown(PROMPT, False, draw) for _ in range(400)})
    assert len(solved) == 1
    assert len(texts) == 9
    assert [judge(PROMPT.gold, text).correct for text in texts].count(True) == 1
    results = [int(text.rpartition("=")[2]) for text in texts]
    own = [
        judge(Problem(PROMPT.gold.numbers, result), text)
        for result, text in zip(results, texts, strict=True)
    ]
    assert all(grade.correct for grade in own)


@pytest.mark.parametrize("path", DEMONSTRATORS)
def test_demonstrators_solve_or_miss_in_tokens_that_the_model_has(path: str) -> None:
    if path.startswith("reasoning-gym:"):
        pytest.importorskip("reasoning_gym", reason="needs the extra `gym`")
    shown = DEMONSTRATORS[path]
    task = load_task(path, options={"size": 200, **shown.options} if shown.options else {})
    tokenizer = build_tokenizer(shown.characters, shown.phrases, shown.context)
    prompts = [*task.train, *task.test][:200]
    for solved in (True, False):
        draw = random.Random(0)
        texts = [shown.demonstrate(prompt, solved, draw) for prompt in prompts]
        examples = encode(tokenizer, prompts, texts)
        for example, text in zip(examples, texts, strict=True):
            assert tokenizer.unk_token_id not in example.tokens
            assert tokenizer.decode(example.tokens[example.start : -1]) == text
            assert len(example.tokens) - example.start < shown.max_tokens
            assert example.start + shown.max_tokens <= shown.context
        responses = [
            Response(prompt, (1,), (2,), text, False, logprobs=(0.0,))
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        correct = sum(grade.correct for grade in task.grade(responses))
        assert correct == len(prompts) if solved else correct < 0.2 * len(prompts)


def test_a_model_for_a_gym_task_is_an_ordinary_folder(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `gym`")
    few = {"steps": 2, "check_every": 2, "batch_size": 4, "check_prompts": 4}
    warm_up(tmp_path / "a", task="reasoning-gym:leg_counting", **few)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    shown = DEMONSTRATORS["reasoning-gym:leg_counting"]
    text = f"{shown.phrases[0]}12 sea slugs, 3 cats?\n"
    ids = tokenizer(text).input_ids
    assert len(ids) == 1 + 3 + 2 + 2 + 2
    assert tokenizer.decode(ids) == text
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.generation_config.max_new_tokens == shown.max_tokens
    assert model.config.vocab_size == len(tokenizer)


def test_labels_cover_the_solution_and_its_end_alone() -> None:
    tokenizer = build_tokenizer()
    (example,) = encode(tokenizer, [PROMPT], ["3*7=21;21+12=33"])
    assert tokenizer.decode(example.tokens) == "3 7 12=33:3*7=21;21+12=33<eos>"
    tokens, labels = collate([example, example._replace(tokens=example.tokens[:20])], 0)
    assert tokenizer.decode(labels[0][labels[0] != IGNORED]) == "3*7=21;21+12=33<eos>"
    assert (labels[1] != IGNORED).sum() == 20 - example.start
    assert (tokens[1, 20:] == 0).all()


def test_loss_is_the_mean_over_labelled_tokens() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = 1.0
    labels = torch.tensor([[IGNORED, 2, IGNORED]])
    expected = torch.log(torch.e + torch.tensor(3.0)) - 1
    assert token_loss(logits, labels) == pytest.approx(expected.item(), abs=1e-6)
