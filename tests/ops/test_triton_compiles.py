"""The Triton kernels, compiled for GPUs that need not be there: what no interpreter checks."""

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter has nothing to compile", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from erclip.ops import triton_epilogue, triton_fused, triton_products  # noqa: E402

GPUS = [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]
SHARED = {"raw": "*fp32", "bias": "*fp32", "targets": "*i64", "width": "i32", "start": "i32"}
REDUCE = {**SHARED, "state": "*fp32", "state_stride": "i32", "floor": "fp32"}
GRADIENT = {**SHARED, "out": "*bf16", "rows": "*fp32", "num_rows": "i32"}


def compiled(kernel, types, constants, gpu):
    """The kernel's machine code for `gpu`, whose arguments are of these types or constant."""
    constants = {"BLOCK": triton_epilogue.BLOCK, **constants}
    signature = {
        name: "constexpr" if name in constants else types[name] for name in kernel.arg_names
    }
    where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return triton.compile(ASTSource(kernel, signature, where), target=GPUTarget(*gpu)).asm


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: f"{gpu[0]}-{gpu[1]}")
@pytest.mark.parametrize(
    ("kernel", "types", "option"),
    [
        (triton_epilogue._reduce_kernel, REDUCE, "SLOPES"),
        (triton_epilogue._gradient_kernel, GRADIENT, "HAS_ENTROPY"),
    ],
    ids=["reduce", "gradient"],
)
@pytest.mark.parametrize(
    "constants",
    [{"temperature": 0.7, "softcap": 30.0}, {"temperature": 1.0, "softcap": None, "bias": None}],
    ids=["full", "plain"],
)
def test_compiles(gpu, kernel, types, option, constants):
    constants = {**constants, option: constants["softcap"] is not None}
    try:
        code = compiled(kernel, types, constants, gpu)
    except Exception as error:  # older releases of triton bring none
        if "linker" not in str(error):
            raise
        pytest.skip("triton finds no linker for AMD's GPUs")
    assert len(code["cubin" if gpu[0] == "cuda" else "hsaco"]) > 1000


NUMBERS = dict.fromkeys(("num_rows", "vocab", "depth", "x_stride", "w_stride"), "i32")
NUMBERS |= dict.fromkeys(("out_stride", "start", "num_parts"), "i32")
POINTERS = {"x": "*bf16", "w": "*bf16", "out": "*bf16", "bias": "*bf16", "targets": "*i64"}
POINTERS |= {"parts": "*fp32", "state": "*fp32", "saved": "*fp32"}
FUSED = {**NUMBERS, **POINTERS, "floor": "fp32"}
CUTS = [
    (("cuda", 80, 32), triton_fused.OLDER),
    (("cuda", 90, 32), triton_fused.HOPPER),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (("cuda", 90, 32), triton_fused.UNALIGNED),
            (("cuda", 100, 32), triton_fused.HOPPER),
            (("hip", "gfx942", 64), triton_fused.OLDER),
        )
    ),
]


@pytest.mark.parametrize(("gpu", "cut"), CUTS, ids=lambda value: str(value[0]))
@pytest.mark.parametrize("kernel", ["scores", "gradient"])
def test_products_with_their_epilogue_compile(gpu, cut, kernel):
    """Into no more shared memory than such a device has for a program."""
    which = {
        "scores": (triton_products._scores_kernel, {"SLOPES": True, "SPAN": cut.span}),
        "gradient": (triton_products._gradient_kernel, {"HAS_ENTROPY": True}),
    }
    function, constants = which[kernel]
    constants |= {"temperature": 1.0, "softcap": None, "bias": None, "EVEN": True}
    constants |= {"ROWS": cut.rows, "COLUMNS": cut.columns, "INNER": cut.inner, "GROUP": cut.group}
    constants["DESCRIPTORS"] = cut.descriptors
    types = dict(FUSED)
    if cut.descriptors:
        blocks = {"x": cut.inner, "w": cut.inner, "out": cut.columns}
        rows = {"x": cut.rows, "w": cut.columns, "out": cut.rows}
        types |= {n: f"tensordesc<bf16[{rows[n]}, {blocks[n]}]>" for n in blocks}
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    where = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(function, signature, where)
    options = {"num_warps": cut.warps, "num_stages": cut.stages}
    made = triton.compile(source, target=GPUTarget(*gpu), options=options)
    assert len(made.asm["cubin" if gpu[0] == "cuda" else "hsaco"]) > 1000
    assert made.metadata.shared <= {80: 163, "gfx942": 64}.get(gpu[1], 227) * 1024


def test_the_merge_of_parts_compiles():
    constants = {"SLOPES": True, "ROWS": 16, "PARTS": 64}
    names = triton_products._merge_kernel.arg_names
    signature = {name: "constexpr" if name in constants else FUSED[name] for name in names}
    where = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(triton_products._merge_kernel, signature, where)
    assert len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]) > 1000
