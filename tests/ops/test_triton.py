"""The Triton epilogue: under the interpreter on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from erclip.ops import linear_logprob_entropy
from interpreter import DEVICE, here


@here
@pytest.mark.parametrize(
    ("bias", "temperature", "softcap", "chunk_size", "n"),
    itertools.product([False, True], [1.0, 0.7], [None, 4.0], [7, None], [5]),
)
def test_rows_and_gradients_are_the_references(bias, temperature, softcap, chunk_size, n):
    g = torch.Generator().manual_seed(0)
    shapes = ((n, 6), (23, 6), (23,))
    inputs = [torch.randn(s, generator=g).to(DEVICE).requires_grad_() for s in shapes]
    inputs = inputs[: 2 + bias]
    targets = torch.randint(0, 23, (n,), generator=g).to(DEVICE)
    got, want = (
        linear_logprob_entropy(
            *(x.to(dtype) for x in inputs[:2]),
            targets,
            bias=inputs[2].to(dtype) if bias else None,
            temperature=temperature,
            softcap=softcap,
            impl=impl,
            chunk_size=chunk_size,
            slopes=True,
        )
        for impl, dtype in (("triton", torch.float32), ("reference", torch.float64))
    )
    for ours, true in zip(got[:4], want[:4], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=2e-6, atol=2e-6)
    u, v = torch.linspace(-1, 2, n).to(DEVICE), torch.linspace(1, -2, n).to(DEVICE)
    u[1] = v[1] = 0
    for a, b in ((u, 0 * v), (u, v)):
        ours, true = (
            torch.autograd.grad(
                (out.logprobs * a + out.entropies * b).sum(), inputs, retain_graph=True
            )
            for out in (got, want)
        )
        for x, y in zip(ours, true, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=5e-6)


@here
@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_far_from_zero_masked_and_tied_logits(level):
    raw = [level, level, -torch.inf, level - 2.0, *[-torch.inf] * 9]
    bias = torch.tensor(raw, device=DEVICE)
    hidden, weight = torch.zeros(2, 4, device=DEVICE), torch.zeros(13, 4, device=DEVICE)
    targets = torch.tensor([1, 3], device=DEVICE)
    out = linear_logprob_entropy(
        hidden.requires_grad_(), weight, targets, bias=bias, impl="triton", chunk_size=3,
        slopes=True,
    )  # fmt: skip
    want = linear_logprob_entropy(
        hidden.double()[:, :1] * 0, weight.double()[[0, 1, 3], :1], targets.clamp(max=2),
        bias=bias[[0, 1, 3]].double(), impl="reference", slopes=True,
    )  # fmt: skip
    for ours, true in zip(out[:4], want[:4], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad((out.logprobs + out.entropies).sum(), hidden)
    assert grad.isfinite().all()


@here
def test_low_entropy_keeps_its_digits():
    hidden = torch.tensor([[9.0], [12.0], [16.0]], device=DEVICE)
    weight = torch.tensor([[1.0], [0.0], [-0.1]], device=DEVICE)
    targets = torch.tensor([0, 0, 0], device=DEVICE)
    got = linear_logprob_entropy(hidden, weight, targets, impl="triton", slopes=True)
    want = linear_logprob_entropy(
        hidden.double(), weight.double(), targets, impl="reference", slopes=True
    )
    for ours, true in zip(got[:4], want[:4], strict=True):
        assert ((ours.double() - true) / true).abs().max() < 2e-5


def test_it_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    hidden, weight, targets = torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="needs tensors on CUDA, got cpu"):
        linear_logprob_entropy(hidden, weight, targets, impl="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="use chunked for float64"):
        linear_logprob_entropy(hidden.double(), weight.double(), targets, impl="triton")
