"""The head on a device against float64: dtypes, options, clipped rows, memory, reproducibility."""

from __future__ import annotations

import pytest
import torch

from erclip.ops import linear_logprob_entropy, linear_policy_loss

pytestmark = pytest.mark.gpu
V, D, N = 1009, 72, 37
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {
    "plain": {},
    "slopes": {"slopes": True},
    "softcap and temperature": {"softcap": 5.0, "temperature": 0.7, "bias": True, "slopes": True},
    "narrow tiles": {"chunk_size": 100, "slopes": True},
    "logits kept": {"cache_logits": True},
}


def inputs(device, dtype, n=N, d=D, v=V):
    """Numbers that every dtype has exactly enough of; peaked rows behind flat ones."""
    g = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.3, 6, n)[:, None]
    hidden = (torch.randn(n, d, generator=g) * scale).to(dtype)
    weight = (torch.randn(v, d, generator=g) * d**-0.5).to(dtype)
    bias = torch.randn(v, generator=g).to(dtype)
    targets = torch.randint(0, v, (n,), generator=g)
    targets[::3] = (hidden.double() @ weight.double().T).argmax(1)[::3]
    return [x.to(device) for x in (hidden, weight, bias, targets)]


def scores(device, dtype, impl, options, wide=False):
    """(log π, H, slopes or None) and the leaves that they depend on."""
    hidden, weight, bias, targets = inputs(device, dtype)
    number = torch.float64 if wide else dtype
    leaves = [x.to(number).requires_grad_() for x in (hidden, weight, bias)]
    options = dict(options)
    leaves = leaves if options.pop("bias", False) else leaves[:2]
    bias = leaves[2] if len(leaves) == 3 else None
    return linear_logprob_entropy(*leaves[:2], targets, bias=bias, impl=impl, **options), leaves


def upstream(device):
    """For log π and H; every third row has none of either."""
    u, v = torch.linspace(-1, 2, N), torch.linspace(1, -2, N)
    u[1::3] = v[1::3] = 0
    return u.to(device), v.to(device)


def gap(ours, true):
    return ((ours.double() - true.double()).norm() / true.double().norm()).item()


@pytest.mark.parametrize("impl", ["triton", "chunked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_scores_and_gradients_are_float64s(device, impl, dtype, options):
    got, leaves = scores(device, dtype, impl, options)
    plain = {name: value for name, value in options.items() if name != "chunk_size"}
    want, true_leaves = scores(device, dtype, "reference", plain, wide=True)
    for ours, true in zip(got, want, strict=True):
        assert (ours is None) == (true is None)
        if true is not None:
            torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=2e-5)
    u, v = upstream(device)
    rounding = 2e-6 if dtype == torch.float32 else 1e-2
    for a, b in ((u, None), (u, v)):
        ours, true = (
            torch.autograd.grad(
                (out.logprobs * a).sum() + (0 if b is None else (out.entropies * b).sum()),
                of,
                retain_graph=True,
            )
            for out, of in ((got, leaves), (want, true_leaves))
        )
        for x, y in zip(ours, true, strict=True):
            assert gap(x, y) < rounding
        assert (ours[0][1::3] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_gradients_are_not_lost(device, dtype):
    """A gradient of 1e-7 a token is far below what fp16 has; the weight's sum is in its range."""
    got, leaves = scores(device, dtype, "auto", {})
    want, true_leaves = scores(device, dtype, "reference", {}, wide=True)
    ours, true = (
        torch.autograd.grad(out.logprobs.sum() * 1e-5, of[1])[0]
        for out, of in ((got, leaves), (want, true_leaves))
    )
    subnormal = 1e-2 if dtype != torch.float16 else 5e-2
    assert gap(ours, true) < (2e-6 if dtype == torch.float32 else subnormal)


def test_float32_stays_float32_whatever_torch_is_set_to(device):
    hidden, weight, _, targets = inputs(device, torch.float32)
    before = torch.get_float32_matmul_precision()
    found = []
    try:
        for setting in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(setting)
            found.append(linear_logprob_entropy(hidden, weight, targets))
            assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
    for other in found[1:]:
        assert torch.equal(other.logprobs, found[0].logprobs)
        assert torch.equal(other.entropies, found[0].entropies)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_call_gives_the_same_bits(device, dtype):
    u, v = upstream(device)
    grads = []
    for _ in range(2):
        out, leaves = scores(device, dtype, "auto", {"bias": True})
        loss = (out.logprobs * u + out.entropies * v).sum()
        grads.append((out.logprobs, out.entropies, *torch.autograd.grad(loss, leaves)))
    with torch.no_grad():
        scored = scores(device, dtype, "auto", {"bias": True})[0]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert torch.equal(scored.logprobs, grads[0][0])
    assert torch.equal(scored.entropies, grads[0][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_row_has_the_same_bits_in_any_batch(device, dtype):
    if device == "cpu":
        pytest.skip("the products of 16-bit inputs are a kernel of our own on CUDA")
    hidden, weight, _, targets = inputs(device, dtype, n=700)
    whole = linear_logprob_entropy(hidden, weight, targets, slopes=True)
    for rows in (slice(0, 1), slice(13, 210), slice(690, 700)):
        part = linear_logprob_entropy(hidden[rows], weight, targets[rows], slopes=True)
        for a, b in zip(part[:4], whole[:4], strict=True):
            assert torch.equal(a, b[rows])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_does_not_reach_in(device, dtype):
    hidden, weight, _, targets = inputs(device, dtype)
    plain = linear_logprob_entropy(hidden, weight, targets)
    with torch.autocast(device, torch.bfloat16):
        cast = linear_logprob_entropy(hidden, weight, targets)
    assert torch.equal(plain.logprobs, cast.logprobs)
    assert torch.equal(plain.entropies, cast.entropies)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loss_with_live_logits_has_the_same_gradients(device, dtype):
    u, _ = upstream(device)
    out, leaves = scores(device, dtype, "auto", {})
    plain = torch.autograd.grad((out.logprobs * u).sum(), leaves)
    hidden, weight, _, targets = inputs(device, dtype)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    live = linear_policy_loss(*leaves, targets, lambda s, at: (s.logprobs * u[at]).sum(), rows=16)
    for a, b in zip(torch.autograd.grad(live.loss, leaves), plain, strict=True):
        assert gap(a, b) < (2e-6 if dtype == torch.float32 else 1e-2)


def test_a_target_outside_the_vocabulary_is_not_a_number_on_a_device(device):
    hidden, weight, _, targets = inputs(device, torch.bfloat16)
    targets[5] = V
    if device == "cpu":
        with pytest.raises(ValueError, match=f"target {V} is outside"):
            linear_logprob_entropy(hidden, weight, targets)
        return
    out = linear_logprob_entropy(hidden, weight, targets)
    assert out.logprobs.isnan().nonzero()[:, 0].tolist() == [5]


def test_extra_memory_is_a_tenth_of_naive_logits(device):
    if device == "cpu":
        pytest.skip("the allocator's peak is CUDA's")
    hidden, weight, _, targets = inputs(device, torch.bfloat16, n=4096, d=256, v=151_936)
    hidden.requires_grad_(), weight.requires_grad_()

    def naive():
        log_p = torch.log_softmax((hidden @ weight.T).float(), -1)
        _ = -(log_p.detach().exp() * log_p.detach()).sum(-1)
        return log_p.gather(1, targets[:, None]).sum()

    peaks = []
    for loss in (lambda: linear_logprob_entropy(hidden, weight, targets).logprobs.sum(), naive):
        hidden.grad = weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < peaks[1] / 10
