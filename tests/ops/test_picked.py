"""Log-probs of ids that are given at every position, against the reference in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from erclip.ops import LogprobEntropyHead, linear_logprob_entropy, picked
from interpreter import DEVICE, INTERPRETED, here


def inputs(n=5, d=6, v=23, k=4):
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=g) for s in ((n, d), (v, d), (v,))]
    targets = torch.randint(0, v, (n,), generator=g)
    ids = torch.stack([torch.randperm(v, generator=g)[:k] for _ in range(n)])
    ids[0, 0] = targets[0]
    ids[1] = ids[2]  # rows that share columns of the weight
    return [x.to(DEVICE if INTERPRETED or torch.cuda.is_available() else "cpu") for x in
            (*tensors, targets, ids)]  # fmt: skip


def scores(impl, dtype, bias, **options):
    hidden, weight, own_bias, targets, ids = inputs()
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight, own_bias)[: 2 + bias]]
    cast = [x.to(dtype) for x in leaves]
    out = linear_logprob_entropy(
        *cast[:2], targets, bias=cast[2] if bias else None, impl=impl, top_ids=ids, **options
    )
    return out, leaves


def same_as_the_reference(impl, dtype, bias, tolerance, **options):
    out, leaves = scores(impl, dtype, bias, **options)
    true, true_leaves = scores("reference", torch.float64, bias, **options)
    assert out.top_logprobs.dtype == out.logprobs.dtype
    for ours, expected in zip(out[:2] + out[-1:], true[:2] + true[-1:], strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)
    weights = torch.linspace(-1, 2, out.top_logprobs.numel(), device=out.logprobs.device)
    for alone in (True, False):  # only through the given ids, and beside the other outputs
        grads = []
        for found, own in ((out, leaves), (true, true_leaves)):
            loss = (found.top_logprobs * weights.view_as(found.top_logprobs)).sum()
            if not alone:
                loss = loss + (found.logprobs - 0.3 * found.entropies).sum()
            grads.append(torch.autograd.grad(loss, own, retain_graph=True))
        for ours, expected in zip(*grads, strict=True):
            torch.testing.assert_close(ours, expected, rtol=20 * tolerance, atol=20 * tolerance)


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
@pytest.mark.parametrize(
    ("bias", "temperature", "softcap", "block"),
    itertools.product([False, True], [1.0, 0.7], [None, 4.0], [1, 1 << 24]),
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_values_and_gradients(monkeypatch, dtype, tolerance, bias, temperature, softcap, block):
    """Also where a block is a single row."""
    monkeypatch.setattr(picked, "BLOCK", block)
    options = {"temperature": temperature, "softcap": softcap, "chunk_size": 7}
    same_as_the_reference("chunked", dtype, bias, tolerance, **options)


@here
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_beside_the_kernels(bias, softcap):
    same_as_the_reference("triton", torch.float32, bias, 2e-6, softcap=softcap, temperature=0.7)


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
def test_all_ids_are_the_whole_distribution():
    hidden, weight, _, targets, _ = inputs()
    every = torch.arange(len(weight), device=hidden.device).expand(len(hidden), -1)
    out = linear_logprob_entropy(hidden, weight, targets, top_ids=every)
    expected = torch.log_softmax(hidden.double() @ weight.double().T, -1)
    torch.testing.assert_close(out.top_logprobs.double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(
        out.top_logprobs.gather(1, targets[:, None])[:, 0], out.logprobs, rtol=0, atol=0
    )


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
def test_16_bits_are_widened_before_they_are_multiplied():
    hidden, weight, _, targets, ids = inputs(d=64)
    halves = [x.bfloat16().requires_grad_() for x in (hidden, weight)]
    out = linear_logprob_entropy(*halves, targets, top_ids=ids)
    wide = [x.detach().double() for x in halves]
    expected = torch.log_softmax(wide[0] @ wide[1].T, -1).gather(1, ids)
    torch.testing.assert_close(out.top_logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    out.top_logprobs.sum().backward()
    assert [x.grad.dtype for x in halves] == [torch.bfloat16] * 2


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
def test_the_head_module_takes_them_too():
    hidden, weight, bias, targets, ids = inputs()
    head = LogprobEntropyHead(weight.shape[1], len(weight), device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    out = head(hidden, targets, top_ids=ids)
    expected = linear_logprob_entropy(hidden, weight, targets, bias=bias, top_ids=ids)
    assert torch.equal(out.top_logprobs, expected.top_logprobs)
    assert head(hidden, targets).top_logprobs is None


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_no_tokens_have_no_log_probs(impl):
    hidden, weight, _, targets, ids = inputs()
    out = linear_logprob_entropy(hidden[:0], weight, targets[:0], top_ids=ids[:0], impl=impl)
    assert out.top_logprobs.shape == (0, ids.shape[1])


@pytest.mark.skipif(INTERPRETED, reason="has no kernel")
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda ids: ids[:, 0], r"top_ids must be \[5, K\] integers"),
        (lambda ids: ids[:3], r"got torch.int64 \[3, 4\]"),
        (lambda ids: ids.float(), "got torch.float32"),
        (lambda ids: ids + 23, "outside the vocabulary of 23 tokens"),
    ],
)
def test_what_are_no_ids_is_refused(wrong, sentence):
    hidden, weight, _, targets, ids = inputs()
    with pytest.raises(ValueError, match=sentence):
        linear_logprob_entropy(hidden, weight, targets, top_ids=wrong(ids))
