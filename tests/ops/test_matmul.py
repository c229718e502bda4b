"""Which product multiplies the tiles, and that it multiplies."""

from __future__ import annotations

import pytest
import torch

from erclip.ops import matmul

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "expected"),
    [
        (AMD, "AVX512", True),
        (AMD, "AVX2", False),
        (INTEL, "AVX512", False),
        (None, "AVX512", False),
    ],
)
def test_onednn_is_chosen_by_the_machine(monkeypatch, tmp_path, cpuinfo, capability, expected):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert matmul.onednn_is_faster(path) is expected


def test_without_the_private_operator_torch_multiplies(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(AMD)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def changed(*args):
        raise RuntimeError("no such signature")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", changed, raising=False)
    assert matmul.onednn_is_faster(path) is False


@pytest.mark.parametrize("onednn", [False, True])
def test_both_products_are_as_close_to_float64(monkeypatch, onednn):
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: onednn)
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(33, 100, generator=g), torch.randn(77, 100, generator=g)
    got = matmul.logits_tile(x, w, torch.float32).double()
    bound = 100 * 2**-24 * (x.double().abs() @ w.double().abs().T)
    assert ((got - x.double() @ w.double().T).abs() <= bound).all()


def test_operands_by_device_and_dtype(monkeypatch):
    x = torch.zeros(1, 1, dtype=torch.bfloat16)
    for native in (False, True):
        monkeypatch.setattr(matmul, "bf16_is_faster", lambda native=native: native)
        assert matmul.arithmetic(x, x) == (torch.float32, torch.float32, not native)
        assert matmul.arithmetic(x.half(), x.half()) == (torch.float32, torch.float32, True)
        assert matmul.arithmetic(x, x.float()) == (torch.float32, torch.float32, True)
        assert matmul.arithmetic(x.double(), x) == (torch.float64, torch.float64, True)


@pytest.mark.parametrize(("flags", "expected"), [("amx_bf16", True), ("avx512_bf16", False)])
def test_bf16_products_are_chosen_by_the_machine(tmp_path, flags, expected):
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        pytest.skip("this torch cannot choose the precision of a product")
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags\t\t: fpu {flags} avx2\n")
    assert matmul.bf16_is_faster(path) is expected
    assert matmul.bf16_is_faster(tmp_path / "absent") is False


@pytest.mark.parametrize("exact", [False, True])
def test_products_leave_in_float32_whatever_torch_is_set_to(exact):
    """Below "highest", torch rounds float32 operands to bf16 where that is faster."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=g), torch.randn(512, 96, generator=g)
    if not exact:
        a, b = a.bfloat16().float(), b.bfloat16().float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with matmul.products(exact, "cpu"):
            got = matmul.product(a, b, torch.float32)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    bound = 512 * 2**-24 * (a.double().abs() @ b.double().abs())
    assert ((got - a.double() @ b.double()).abs() <= bound).all()


def test_tf32_does_not_reach_a_head_on_cuda():
    """The setting needs no GPU. Both of torch's ways to ask for TF32 are put back."""
    backend = torch.backends.cuda.matmul
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this torch cannot choose the precision of a product")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        backend.allow_tf32 = True
        for exact in (True, False):
            with matmul.products(exact, "cuda"):
                assert backend.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"
        assert backend.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(RuntimeError, match="inside"), matmul.products(True, "cuda"):
        raise RuntimeError("inside")
    assert torch.get_float32_matmul_precision() == before
