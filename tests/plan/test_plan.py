"""The memory plan against what can be worked out by hand, and the command around it."""

from __future__ import annotations

import pytest

from erclip.config.recipes import load_recipe
from erclip.plan.counts import count, read_model_config
from erclip.plan.memory import plan
from erclip.plan.remedies import Here, remedies

MIB = 1 << 20


def config(*overrides):
    return load_recipe("quickstart", overrides).config


def items(planned):
    return {(item.name, item.phase): item.bytes for item in planned.items}


def test_activations_are_those_of_a_llama_counted_by_hand():
    """Per token and layer 6D + 4Hd + 4I floats, the norms' 2, sdpa's H and its mask's L."""
    settings = config("rollout.prompts=16", "trainer.updates_per_rollout=4")
    counted = count(settings, read_model_config(settings), 1, prompt_tokens=8)
    assert (counted.parameters, counted.shape) == (133_952, (32, 32))  # 4 groups of 8, 24 + 8 long
    hidden, heads, wide, layers, tokens, length = 64, 4, 256, 2, 32 * 32, 32
    per_layer = 6 * hidden + 4 * hidden + 4 * wide + 2 + heads + length
    last_norm = 2 * hidden + 1
    shared = 8 * tokens + 2 * length * 16 * 4  # token ids, cos and sin
    expected = 4 * tokens * (layers * per_layer + last_norm) + shared
    assert counted.kept == pytest.approx(expected, rel=0.02)


def test_weights_states_and_cache_are_products():
    found = items(plan(config("rollout.prompts=16", "sampler.batch_size=64"), prompt_tokens=8))
    weights = 133_952 * 4
    assert found["weights", "always"] == weights
    assert found["optimiser states", "always"] == 2 * weights
    assert found["gradients", "update"] == weights
    assert found["key-value cache", "sampling"] == 2 * 2 * 4 * 16 * 64 * (24 + 8) * 4
    two = items(plan(config(), processes=2, prompt_tokens=8))
    assert two["weights", "always"] == weights // 2
    assert two["gathered weights", "sampling"] == weights


def test_what_memory_does_not_depend_on_changes_nothing():
    assert plan(config()) == plan(config("trainer.learning_rate=1", "loss.constraints=[]"))


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("trainer.token_budget=1024", "activations"),
        ("model.gradient_checkpointing=true", "activations"),
        ("model.dtype=bfloat16", "weights"),
        ("sampler.batch_size=8", "key-value cache"),
    ],
)
def test_every_lever_lowers_its_item(override, name):
    before, after = plan(config()), plan(config(override))
    lowered = {key for key, size in items(after).items() if size < items(before)[key]}
    assert name in {item for item, _ in lowered}


def test_a_reference_model_is_counted():
    found = items(plan(config("loss.kl={weight=0.1}")))
    assert found["reference weights", "always"] == found["weights", "always"]


def test_a_sampler_beside_the_trainer_has_weights_and_cache_of_its_own():
    """While updates run; on another device, nothing of it is here."""
    ahead = ["rollout.staleness=1", "model.device=cpu"]
    turns, beside = items(plan(config(*ahead))), items(plan(config(*ahead, "rollout.overlap=true")))
    assert beside["sampler's weights", "always"] == beside["hand-over", "always"] == 133_952 * 4
    assert beside["key-value cache", "always"] == turns["key-value cache", "sampling"]
    far = items(plan(config(*ahead, "rollout.overlap={device='cuda:1'}")))
    assert far == {key: size for key, size in turns.items() if key[1] != "sampling"}
    adapted = items(plan(config(*ahead, "rollout.overlap=true", "model.lora={rank=4}")))
    assert adapted["hand-over", "always"] < adapted["sampler's weights", "always"] / 10


def test_adapters_are_all_that_is_trained():
    """Rank 4 on 7 linear layers of 2: 4 (in + out) numbers each, float32 beside any weights."""
    settings = ["model.lora={rank=4}", "loss.kl={weight=0.1}", "model.dtype=bfloat16"]
    found = items(plan(config(*settings)))
    attention = 64 + 64 + 2 * (64 + 64) + 64 + 64
    adapters = 2 * 4 * (attention + 3 * (64 + 256))
    assert found["weights", "always"] == 133_952 * 2 + adapters * 4
    assert found["optimiser states", "always"] == 2 * adapters * 4
    assert found["gradients", "update"] == adapters * 4
    assert found["merged weights", "checkpoint"] == 133_952 * 2
    assert ("reference weights", "always") not in found
    other = items(plan(config(*settings, 'loss.kl.model="embedded"')))
    assert other["reference weights", "always"] == 133_952 * 2
    plain = items(plan(config()))
    assert found["activations", "update"] != plain["activations", "update"]


def test_an_adapter_on_the_head_is_counted():
    """Vocabulary 20, hidden size 64, rank 4: weight and adapter in one, and their gradient."""
    found = items(plan(config('model.lora={rank=4,targets=["lm_head"]}')))
    assert found["adapted head", "update"] == 2 * 20 * (64 + 4) * 4
    assert found["optimiser states", "always"] == 2 * 4 * (64 + 20) * 4


def test_autocast_keeps_weights_whole_and_casts_them_for_backward():
    plain, cast = items(plan(config())), items(plan(config("model.autocast=bfloat16")))
    for name in ("weights", "optimiser states"):
        assert cast[name, "always"] == plain[name, "always"]
    assert cast["activations", "update"] < plain["activations", "update"]


def test_vllm_takes_its_share_at_the_start():
    token = 2 * 2 * 4 * 16 * 2  # two layers, keys and values of 4 heads of 16, two bytes
    engine = ["sampler.kind=vllm", "sampler.dtype=bfloat16", "sampler.max_tokens=24"]
    share = items(plan(config(*engine, "sampler.memory_frac=0.25"), available=64 * MIB))
    assert share["vLLM weights", "always"] == 133_952 * 2
    assert share["vLLM cache", "always"] == 16 * MIB - 133_952 * 2  # a quarter of 64 MiB
    fixed = plan(config(*engine, "sampler.kv_cache_gib=0.5"), prompt_tokens=8)
    assert items(fixed)["vLLM cache", "always"] == 512 * MIB
    (why,) = (item.why for item in fixed.items if item.name == "vLLM cache")
    assert f"{512 * MIB // token:,} tokens of the {512 * 32:,} in a batch" in why
    assert not [name for name, phase in share if phase == "sampling"]
    server = items(plan(config("sampler.kind=vllm_server")))
    assert not [name for name, phase in server if "cache" in name]


def test_a_share_that_leaves_no_room_for_a_response_is_not_enough():
    engine = ["sampler.kind=vllm", "sampler.max_tokens=24", "model.device=cuda"]
    starved = config(*engine, "sampler.memory_frac=0.0002")
    planned = plan(starved, prompt_tokens=8, available=2048 * MIB)
    (cache,) = (item for item in planned.items if item.name == "vLLM cache")
    assert (cache.bytes, cache.enough) == (0, False)
    assert "0 tokens, and one response may have 32" in cache.why
    assert planned.peak < 2048 * MIB
    assert not planned.fits(2048 * MIB)
    assert plan(config(*engine), prompt_tokens=8, available=2048 * MIB).fits(2048 * MIB)
    enough = [r for r in remedies(starved, Here(2048 * MIB, 1), prompt_tokens=8) if r.enough]
    assert "sampler.memory_frac = 0.4" in {remedy.setting for remedy in enough}
    assert "sampler.memory_frac = 0.0001" not in {remedy.setting for remedy in enough}


def test_on_a_gpu_vllm_is_a_remedy():
    settings = config("model.device=cuda", "rollout.responses=64", "sampler.max_tokens=2000")
    peak = plan(settings).peak
    found = remedies(settings, Here(peak, 1))
    (engine,) = (r for r in found if r.setting.startswith("sampler.kind = vllm"))
    assert engine.enough
    assert engine.peak <= 0.8 * peak


def test_remedies_are_changes_that_fit():
    settings = config("trainer.updates_per_rollout=1", "sampler.batch_size=8")
    peak = plan(settings, prompt_tokens=8).peak
    found = remedies(settings, Here(1.2 * peak, 1), prompt_tokens=8)
    assert found
    assert all(remedy.peak <= 0.96 * peak for remedy in found)
    assert "model.gradient_checkpointing = true" in {remedy.setting for remedy in found}


def test_two_processes_of_a_cpu_have_no_more_memory_than_one():
    """What `--processes 2` is said to need and have is what the plan with two of them says."""
    settings = config("trainer.updates_per_rollout=1", "sampler.batch_size=8")
    machine = plan(settings, prompt_tokens=8).peak / 0.79
    here = Here(machine, 1, given=False)
    shares = [r for r in remedies(settings, here, 8) if r.setting.startswith("--processes")]
    for remedy in shares:
        processes = int(remedy.setting.split()[1])
        after = plan(settings, processes, 8, machine / processes)
        assert remedy.enough == after.fits(machine / processes)
    assert here.each(settings, 4) == machine / 4
    assert here.each(config("model.device=cuda"), 4) == machine


def test_the_command_says_whether_it_fits(monkeypatch, capsys):
    from erclip.cli import app

    fits = app(["plan", "quickstart", "--memory-gib", "64"], standalone_mode=False)
    assert not fits
    assert "fits into 64.00 GiB" in capsys.readouterr().out
    peak = plan(load_recipe("quickstart").config).peak / 2**30
    code = app(["plan", "quickstart", "--memory-gib", str(1.1 * peak)], standalone_mode=False)
    assert code == 1
    assert "of which a fifth stays free" in capsys.readouterr().out
    code = app(["plan", "quickstart", "--memory-gib", "0.5"], standalone_mode=False)
    said = capsys.readouterr().out
    assert code == 1
    assert "does not fit into 0.50 GiB" in said
    assert "no single change is enough" in said
