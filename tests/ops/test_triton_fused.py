"""Products with their epilogue in one kernel, fp16 under Triton's interpreter, any dtype on CUDA.

The interpreter multiplies no bf16.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from erclip.ops.gradient import Saved, gradient_tile
from erclip.ops.options import HeadOptions
from erclip.ops.reference import reference
from erclip.ops.softmax import finish
from interpreter import DEVICE, INTERPRETED, here

DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
OPTIONS = {
    "plain": HeadOptions(),
    "slopes": HeadOptions(slopes=True),
    "softcap and temperature": HeadOptions(0.7, 4.0, None, slopes=True),
}


def inputs(dtype, n=21, d=40, v=133):
    g = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.3, 6, n)[:, None]
    hidden = (torch.randn(n, d, generator=g) * scale).to(dtype)
    weight = (torch.randn(v, d, generator=g) * d**-0.5).to(dtype)
    bias = torch.randn(v, generator=g).to(dtype)
    targets = torch.randint(0, v, (n,), generator=g)
    targets[::3] = (hidden.double() @ weight.double().T + bias.double()).argmax(1)[::3]
    return [x.to(DEVICE) for x in (hidden, weight, bias, targets)]


def cuts(module):
    """No block divides 21 rows, 133 columns or 40 deep; several parts; both ways of loading."""
    small = {"rows": 16, "columns": 32, "inner": 16, "warps": 4, "stages": 2, "span": 2, "group": 2}
    counts_elements = INTERPRETED and version("triton").startswith("3.4.")  # where bytes are meant
    ways = (False,) if counts_elements else (False, True)
    return [module.Blocks(**small, descriptors=way) for way in ways]


@here
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_scores_are_float64s(dtype, options, with_bias):
    from erclip.ops import triton_fused

    hidden, weight, bias, targets = inputs(dtype)
    bias = bias if with_bias else None
    wide = (x if x is None else x.double() for x in (hidden, weight, bias))
    want = reference(*wide, targets, options)[:4]
    for cut in cuts(triton_fused):
        state = triton_fused.scores_state(hidden, weight, bias, targets, options, cut)
        got = finish(state, options.slopes)
        ours_all = (*got[:2], *(got.slopes if options.slopes else (None, None)))
        pairs = zip(ours_all, want, strict=True)
        for ours, true in pairs:
            if true is not None:
                torch.testing.assert_close(ours.double(), true, rtol=3e-6, atol=3e-6)


@here
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["softcap and temperature"]], ids=str)
@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradient_is_the_epilogues(dtype, options, with_entropy):
    """Of a tile in the middle of the vocabulary, against plain torch on the exact products."""
    from erclip.ops import triton_fused

    hidden, weight, bias, targets = inputs(dtype)
    wide = (x.double() for x in (hidden, weight, bias))
    _, entropies, *_ = reference(*wide, targets, options)
    z = hidden.double() @ weight.double().T + bias.double()
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
    log_sum = (z / options.temperature).logsumexp(1)
    g = torch.linspace(-1, 2, len(targets), device=DEVICE)
    saved = Saved(
        targets, log_sum.float(), entropies.float(), g, g.flip(0) if with_entropy else None
    )
    v = slice(50, 120)
    raw = (hidden.double() @ weight[v].double().T).float()
    want = gradient_tile(raw, bias[v].float(), saved, v.start, options, torch.float32)
    for cut in cuts(triton_fused):
        got = triton_fused.gradient_tile(hidden, weight[v], bias[v], saved, v.start, options, cut)
        assert got.dtype == dtype
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(got.float(), want, rtol=rounding, atol=rounding * 1e-2)


@here
def test_masked_and_tied_logits():
    """−inf by the bias, ties, and a part of the vocabulary that is −inf throughout."""
    from erclip.ops import triton_fused

    raw = [*[-torch.inf] * 40, 3.0, 3.0, 1.0, *[-torch.inf] * 30]
    bias = torch.tensor(raw, device=DEVICE, dtype=torch.float16)
    hidden = torch.zeros(5, 16, device=DEVICE, dtype=torch.float16)
    weight = torch.zeros(len(raw), 16, device=DEVICE, dtype=torch.float16)
    targets = torch.tensor([41, 42, 5, len(raw), -1], device=DEVICE)
    for cut in cuts(triton_fused):
        cut = cut._replace(span=1)
        options = HeadOptions(slopes=True)
        state = triton_fused.scores_state(hidden, weight, bias, targets, options, cut)
        got = finish(state, slopes=True)
        kept = slice(40, 43)
        want = reference(
            hidden[:2].double(),
            weight[kept].double(),
            bias[kept].double(),
            targets[:2] - 40,
            options,
        )
        for ours, true in zip((*got[:2], *got.slopes), want[:4], strict=True):
            torch.testing.assert_close(ours[:2].double(), true, rtol=1e-6, atol=1e-6)
        assert got.logprobs[2] == -torch.inf
        assert got.logprobs[3:].isnan().all()  # outside the vocabulary
