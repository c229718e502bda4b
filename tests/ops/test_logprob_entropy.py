"""The op against float64, and the traps in which other implementations were seen to fall."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import profile

from erclip.ops import chunked, linear_logprob_entropy, matmul, operators

N, D, V = 13, 12, 203


def case(seed=0, *, n=N, v=V, scale=1.0, bias=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, D, generator=g).to(dtype)
    weight = (torch.randn(v, D, generator=g) * scale).to(dtype)
    offset = torch.randn(v, generator=g).to(dtype) if bias else None
    return hidden, weight, torch.randint(0, v, (n,), generator=g), offset


def exact(hidden, weight, targets, bias=None, **options):
    wide = None if bias is None else bias.double()
    return linear_logprob_entropy(
        hidden.double(), weight.double(), targets, bias=wide, impl="reference", **options
    )


def naive(hidden, weight, targets, bias=None, temperature=1.0, softcap=None):
    """What trainers do: logits in the model's dtype, log_softmax over them in float32."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = torch.log_softmax((z / temperature).float(), -1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def worst(got, want):
    return (got.double() - want.double()).abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 5.0, 40.0])  # flat … one-hot
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.6, None), (1.3, 30.0)])
def test_errors_are_never_above_the_naive_ones(dtype, scale, bias, temperature, softcap):
    hidden, weight, targets, offset = case(scale=scale, bias=bias, dtype=dtype)
    options = {"temperature": temperature, "softcap": softcap}
    want = exact(hidden, weight, targets, offset, **options)
    got = linear_logprob_entropy(hidden, weight, targets, bias=offset, chunk_size=50, **options)
    peer = naive(hidden, weight, targets, offset, **options)
    largest = want.logprobs.abs().max().item()
    assert worst(got.logprobs, want.logprobs) <= worst(peer[0], want.logprobs) + 4e-7 * largest
    assert worst(got.entropies, want.entropies) <= worst(peer[1], want.entropies) + 1e-6


@pytest.mark.parametrize(
    ("dtype", "bf16_unit"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_gradient_errors_are_never_above_the_naive_ones(monkeypatch, dtype, bf16_unit, scale):
    monkeypatch.setattr(matmul, "bf16_is_faster", lambda: bf16_unit)
    upstream = torch.linspace(-1, 1, N)

    def gradients(function, *tensors):
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        (function(*leaves)[0] * upstream).sum().backward()
        return [leaf.grad for leaf in leaves]

    hidden, weight, targets, _ = case(scale=scale, dtype=dtype)
    want = gradients(lambda h, w: exact(h, w, targets), hidden.double(), weight.double())
    got = gradients(
        lambda h, w: linear_logprob_entropy(h, w, targets, chunk_size=50), hidden, weight
    )
    peer = gradients(lambda h, w: naive(h, w, targets), hidden, weight)
    for ours, theirs, true in zip(got, peer, want, strict=True):
        assert ours.dtype == dtype
        assert worst(ours, true) <= worst(theirs, true) + 2e-6 * true.abs().max().item()


def test_entropy_of_a_thousandth_nat_from_bf16_inputs_is_within_one_percent():
    gaps = torch.linspace(8, 16, 9)
    weight = torch.eye(D)[:5].to(torch.bfloat16)
    hidden = torch.zeros(len(gaps), D, dtype=torch.bfloat16)
    hidden[:, 0] = gaps.to(torch.bfloat16)
    targets = torch.zeros(len(gaps), dtype=torch.int64)
    got = linear_logprob_entropy(hidden, weight, targets, chunk_size=2).entropies.double()
    want = exact(hidden, weight, targets).entropies
    assert want.min() < 1e-5
    assert want.max() > 1e-3
    assert ((got - want).abs() / want).max() < 1e-5  # far inside the one percent


options_grid = list(
    itertools.product([False, True], [1.0, 0.7], [None, 4.0], [1, 7, None], [False, True])
)


@pytest.mark.parametrize(("bias", "temperature", "softcap", "chunk_size", "cache"), options_grid)
def test_every_row_and_gradient_is_the_references(bias, temperature, softcap, chunk_size, cache):
    hidden, weight, targets, offset = case(n=5, v=23, bias=bias, dtype=torch.float64)
    inputs = [hidden, weight] if offset is None else [hidden, weight, offset]
    inputs = [x.requires_grad_() for x in inputs]

    def run(impl):
        return linear_logprob_entropy(
            *inputs[:2],
            targets,
            bias=inputs[2] if bias else None,
            temperature=temperature,
            softcap=softcap,
            impl=impl,
            chunk_size=chunk_size,
            slopes=True,
            cache_logits=cache,
        )

    got, want = run("chunked"), run("reference")
    for ours, true in zip(got[:4], want[:4], strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-13)
    u, v = torch.linspace(-1, 2, 5).double(), torch.linspace(1, -2, 5).double()
    for a, b in ((u, 0 * v), (0 * u, v), (u, v)):
        ours, true = (
            torch.autograd.grad(
                (out.logprobs * a + out.entropies * b).sum(), inputs, retain_graph=True
            )
            for out in (got, want)
        )
        for x, y in zip(ours, true, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(softcap):
    hidden, weight, targets, offset = case(n=3, v=7, bias=True, dtype=torch.float64)

    def function(h, w, b):
        return linear_logprob_entropy(
            h, w, targets, bias=b, temperature=0.8, softcap=softcap, chunk_size=3
        )[:2]

    inputs = tuple(x.clone().requires_grad_() for x in (hidden, weight, offset))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_slope_is_the_product_of_the_two_gradients_and_the_change_of_entropy(impl):
    _, z, targets, _ = case(n=D, dtype=torch.float64)
    z = z[:, :D].T.contiguous()  # 12 rows of 203 logits
    eye = torch.eye(z.shape[1], dtype=torch.float64)

    def run(logits):
        return linear_logprob_entropy(logits, eye, targets, impl=impl, slopes=True, chunk_size=64)

    leaf = z.clone().requires_grad_()
    out = run(leaf)
    (d_logprob,) = torch.autograd.grad(out.logprobs.sum(), leaf, retain_graph=True)
    (d_entropy,) = torch.autograd.grad(out.entropies.sum(), leaf)
    torch.testing.assert_close(out.slopes, (d_logprob * d_entropy).sum(1), rtol=1e-10, atol=1e-14)
    advantages, step = torch.linspace(-1, 1, D).double(), 1e-6
    up, down = (run(z + s * advantages[:, None] * d_logprob).entropies for s in (step, -step))
    change = (up - down) / (2 * step)
    torch.testing.assert_close(advantages * out.slopes, change, rtol=1e-6, atol=1e-9)
    assert not out.slopes.requires_grad


def test_slope_keeps_its_digits_where_the_entropy_vanishes():
    hidden = torch.tensor([[14.0], [14.0]])
    weight, targets = torch.tensor([[1.0], [0.0], [-0.1]]), torch.tensor([0, 1])
    got = linear_logprob_entropy(hidden, weight, targets, slopes=True).slopes.double()
    want = exact(hidden, weight, targets, slopes=True).slopes
    assert want[0] < 0 < want[1]  # more of the likely token: entropy falls
    assert ((got - want).abs() / want.abs()).max() < 1e-5


def test_equal_weights_give_bit_identical_scores_with_and_without_gradient():
    hidden, weight, targets, _ = case(n=70, v=1003)
    with torch.no_grad():
        old = linear_logprob_entropy(hidden, weight, targets)
    leaf = weight.clone().requires_grad_()
    for options in ({}, {"slopes": True}, {"cache_logits": True}):
        new = linear_logprob_entropy(hidden, leaf, targets, **options)
        assert torch.equal(old.logprobs, new.logprobs)
        assert torch.equal(old.entropies, new.entropies)
        assert torch.equal((new.logprobs - old.logprobs).exp(), torch.ones(70))


def count_products(monkeypatch):
    """Multiply-adds of all matrix products, as seen by the tile loops."""
    seen = {"forward": 0, "backward": 0}

    def counting(name, function):
        def wrapped(*args):
            a, b = (x for x in args if isinstance(x, torch.Tensor) and x.ndim == 2)  # type: ignore
            seen[name] += a.shape[0] * a.shape[1] * b.shape[0 if name == "forward" else 1]
            return function(*args)

        return wrapped

    def add(total, a, b):
        seen["backward"] += a.shape[0] * a.shape[1] * b.shape[1]
        total.addmm_(a, b)

    monkeypatch.setattr(chunked, "logits_tile", counting("forward", chunked.logits_tile))
    monkeypatch.setattr(chunked, "accumulate", add)
    return seen


@pytest.mark.parametrize("cache", [False, True])
def test_rows_without_gradient_cost_no_product(monkeypatch, cache):
    hidden, weight, targets, _ = case()
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    upstream = torch.zeros(N)
    upstream[[2, 5, 11]] = torch.tensor([1.0, -2.0, 0.5])
    want = torch.autograd.grad((exact(*inputs, targets).logprobs * upstream).sum(), inputs)
    seen = count_products(monkeypatch)
    logprobs = linear_logprob_entropy(*inputs, targets, cache_logits=cache).logprobs
    assert seen == {"forward": N * D * V, "backward": 0}
    got = torch.autograd.grad(logprobs, inputs, upstream)
    again = 0 if cache else 3 * D * V
    assert seen == {"forward": N * D * V + again, "backward": 2 * 3 * D * V}
    for ours, true in zip(got, want, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-6)
    seen.update(forward=0, backward=0)
    logprobs = linear_logprob_entropy(*inputs, targets).logprobs
    none = torch.autograd.grad(logprobs, inputs, torch.zeros(N))
    assert seen["backward"] == 0
    assert all(torch.count_nonzero(g) == 0 for g in none)


def test_a_nan_from_upstream_is_not_mistaken_for_a_clipped_row():
    hidden, weight, targets, _ = case()
    upstream = torch.zeros(N)
    upstream[3] = torch.nan
    leaf = hidden.requires_grad_()
    (grad,) = torch.autograd.grad(
        linear_logprob_entropy(leaf, weight, targets).logprobs, leaf, upstream
    )
    assert grad[3].isnan().all()
    assert torch.count_nonzero(grad[:3]) == 0


def test_an_entropy_nobody_differentiates_costs_nothing(monkeypatch):
    hidden, weight, targets, _ = case()
    seen = []

    def spy(raw, bias, saved, *rest):
        seen.append(saved.grad_entropies)
        return chunked.gradient_tile(raw, bias, saved, *rest)

    monkeypatch.setattr(chunked.TORCH.__class__, "gradient", property(lambda _: spy))
    linear_logprob_entropy(hidden.requires_grad_(), weight, targets).logprobs.sum().backward()
    assert seen
    assert all(grad is None for grad in seen)


def test_frozen_head_forms_no_weight_gradient(monkeypatch):
    hidden, weight, targets, _ = case()
    seen = count_products(monkeypatch)
    linear_logprob_entropy(hidden.requires_grad_(), weight, targets).logprobs.sum().backward()
    assert seen["backward"] == N * D * V
    assert weight.grad is None


def test_tied_embeddings_and_lora_get_their_gradients():
    _, weight, targets, _ = case(dtype=torch.float64)
    tokens = torch.arange(N)

    def tied(impl):
        table = weight.clone().requires_grad_()
        out = linear_logprob_entropy(torch.tanh(table[tokens]), table, targets, impl=impl)
        return torch.autograd.grad(out.logprobs.sum(), table)[0]

    torch.testing.assert_close(tied("chunked"), tied("reference"), rtol=1e-11, atol=1e-13)
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, D), (V, 2)))
    a.requires_grad_(), b.requires_grad_()

    def lora(impl):
        out = linear_logprob_entropy(weight[:N], weight + 0.5 * b @ a, targets, impl=impl)
        return torch.autograd.grad(out.logprobs.sum(), (a, b))

    for ours, true in zip(lora("chunked"), lora("reference"), strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_no_tokens(impl):
    hidden, weight, targets, _ = case(n=0)
    leaf = weight.requires_grad_()
    out = linear_logprob_entropy(hidden, leaf, targets, impl=impl, slopes=True)
    assert [x.numel() for x in out[:4]] == [0, 0, 0, 0]
    out.logprobs.sum().backward()
    assert torch.count_nonzero(leaf.grad) == 0


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("kept", [slice(0, 20), slice(100, 103), slice(202, 203)])
def test_masked_vocabulary_is_as_if_it_were_not_there(impl, kept):
    hidden, weight, _, _ = case(dtype=torch.float64)
    targets = torch.arange(N) % (kept.stop - kept.start)
    bias = torch.full((V,), -torch.inf, dtype=torch.float64)
    bias[kept] = 0.0
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    got = linear_logprob_entropy(
        *leaves, targets + kept.start, bias=bias, impl=impl, chunk_size=16, slopes=True
    )
    want = exact(leaves[0], leaves[1][kept], targets, slopes=True)
    for ours, true in zip(got[:4], want[:4], strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-13)
    if impl == "chunked":  # 0 · −inf: autograd through the reference's entropy gives NaN here
        ours, true = (
            torch.autograd.grad((o.logprobs + o.entropies).sum(), leaves) for o in (got, want)
        )
        for x, y in zip(ours, true, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_a_masked_target_has_log_prob_minus_infinity_and_a_masked_row_is_nan():
    hidden, weight, targets, _ = case()
    bias = torch.zeros(V)
    bias[targets[0]] = -torch.inf
    out = linear_logprob_entropy(hidden, weight, targets, bias=bias, chunk_size=64, slopes=True)
    assert out.logprobs[0] == -torch.inf
    assert out.entropies.isfinite().all()
    assert out.slopes.isfinite().all()
    nothing = linear_logprob_entropy(hidden, weight, targets, bias=bias - torch.inf)
    assert nothing.logprobs.isnan().all()
    assert nothing.entropies.isnan().all()


@pytest.mark.parametrize("level", [-3e4, -300.0, 300.0, 3e4])
def test_far_from_zero_logits(level):
    """verl's kernel starts its maximum at a finite number: all logits below −88 gave +inf, NaN."""
    weight = torch.tensor([[level], [level - 1.0], [level - 3.0]])
    hidden, targets = torch.ones(2, 1), torch.tensor([0, 2])
    out = linear_logprob_entropy(hidden, weight, targets, chunk_size=1, slopes=True)
    want = exact(hidden, weight - level, targets, slopes=True)
    for ours, true in zip(out[:4], want[:4], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-6, atol=1e-7)


def test_ties_for_the_maximum_are_all_counted():
    weight = torch.tensor([[2.0]] * 5 + [[0.0]] * 4)
    out = linear_logprob_entropy(
        torch.ones(1, 1), weight, torch.tensor([3]), chunk_size=3, slopes=True
    )
    want = exact(torch.ones(1, 1), weight, torch.tensor([3]), slopes=True)
    for ours, true in zip(out[:4], want[:4], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-6, atol=1e-8)


def test_nan_stays_in_its_row():
    hidden, weight, targets, _ = case()
    clean = linear_logprob_entropy(hidden, weight, targets)
    hidden[4, 0] = torch.nan
    out = linear_logprob_entropy(hidden, weight, targets)
    assert out.logprobs[4].isnan()
    assert out.entropies[4].isnan()
    rest = torch.arange(N) != 4
    torch.testing.assert_close(out.logprobs[rest], clean.logprobs[rest], rtol=1e-6, atol=1e-6)


def test_autocast_does_not_reach_the_logits():
    hidden, weight, targets, _ = case()
    want = linear_logprob_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear_logprob_entropy(hidden, weight, targets)
    assert torch.equal(got.logprobs, want.logprobs)
    assert torch.equal(got.entropies, want.entropies)


@pytest.mark.skipif(
    torch.__version__ < "2.9", reason="torch 2.8 cannot trace the tests' own checks of shapes"
)
@pytest.mark.usefixtures("unchecked")
def test_compiles_as_one_graph_with_the_same_bits():
    hidden, weight, targets, _ = case()

    def loss(h, w):
        out = linear_logprob_entropy(h, w, targets, chunk_size=50)
        return (out.logprobs.clamp(min=-6) * 2).sum() + out.entropies.mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    eager, graph = loss(*leaves), compiled(*leaves)
    assert torch.equal(eager, graph)
    for a, b in zip(
        torch.autograd.grad(eager, leaves), torch.autograd.grad(graph, leaves), strict=True
    ):
        assert torch.equal(a, b)


def test_several_blocks_of_rows(monkeypatch):
    shape = chunked.tile_shape
    monkeypatch.setattr(chunked, "tile_shape", lambda *a: (5, shape(*a)[1]))
    hidden, weight, targets, offset = case(n=N, bias=True, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (hidden, weight, offset)]
    upstream = torch.linspace(-1, 1, N).double()
    results = [
        linear_logprob_entropy(
            *leaves[:2], targets, bias=leaves[2], impl=impl, chunk_size=64, cache_logits=cache
        )
        for impl, cache in (("reference", False), ("chunked", False), ("chunked", True))
    ]
    want = torch.autograd.grad(results[0].logprobs, leaves, upstream)
    for out in results[1:]:
        torch.testing.assert_close(out.entropies, results[0].entropies, rtol=1e-11, atol=1e-13)
        for a, b in zip(torch.autograd.grad(out.logprobs, leaves, upstream), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def peak_bytes(function):
    """Most memory that torch held at once during a call, beyond what it held before."""
    with profile(profile_memory=True) as run:
        function()
    held = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_is_a_few_tiles_and_the_gradients(dtype):
    n, d, v = 512, 32, 40_000
    hidden = torch.randn(n, d).to(dtype).requires_grad_()
    weight = torch.randn(v, d).to(dtype).requires_grad_()
    targets = torch.randint(0, v, (n,))
    gradients = hidden.nbytes + weight.nbytes

    def ours():
        linear_logprob_entropy(hidden, weight, targets).logprobs.sum().backward()

    def all_logits():
        naive(hidden, weight, targets)[0].sum().backward()

    tile = 4 << 20
    assert peak_bytes(ours) - gradients < 6 * tile
    assert peak_bytes(all_logits) > n * v * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, V])}, f"target {V} is outside the vocabulary of {V}"),
        ({"targets": torch.tensor([-100, 0])}, "target -100"),
        ({"targets": torch.tensor([0.0, 1.0])}, "int64 or int32"),
        ({"hidden": torch.zeros(2, D + 1)}, r"got \[2, 13\] and \[203, 12\]"),
        ({"hidden": torch.zeros(2, D).int()}, "hidden must be a float tensor"),
        ({"bias": torch.zeros(3)}, r"bias must be \[203\]"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"softcap": -1.0}, "softcap must be positive"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"impl": "flash"}, "impl must be one of"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refusals_name_the_value(change, message):
    hidden, weight, _, _ = case()
    arguments = {"hidden": hidden[:2], "weight": weight, "targets": torch.tensor([0, 1]), **change}
    with pytest.raises(ValueError, match=message):
        linear_logprob_entropy(**arguments)


def test_operators_declare_what_they_return():
    hidden, weight, targets, offset = case(bias=True)
    arguments = (hidden, weight, offset, targets, "chunked", 1.0, None, 50, True, True)
    torch.library.opcheck(operators.head_forward, arguments)
    row = torch.ones(N)
    saved = (row, row, row, None, row[:0])
    rest = ("chunked", 1.0, None, 50, [True, True, False])
    torch.library.opcheck(operators.head_backward, (hidden, weight, None, targets, *saved, *rest))
