"""The module: a drop-in linear layer, tied or sharded over two processes with the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from erclip.ops import LogprobEntropyHead, layer_logprob_entropy, linear_logprob_entropy
from together import together

D, V, N = 8, 37, 6  # 37 rows do not divide by two processes


class TiedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.trunk = nn.Linear(D, D)
        self.head = LogprobEntropyHead(D, V, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, targets):
        return self.head(torch.tanh(self.trunk(self.embed(tokens))), targets, chunk_size=10)


class UntiedModel(TiedModel):
    def __init__(self):
        super().__init__()
        self.head = LogprobEntropyHead(D, V, bias=True)


def batch():
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, V, (N,), generator=g), torch.randint(0, V, (N,), generator=g)


def build(kind):
    torch.manual_seed(0)
    return kind()


def run_both(folder):
    dist.init_process_group("gloo")
    for kind in (TiedModel, UntiedModel):
        shard_and_run(kind, folder / f"{kind.__name__}.pt")
    dist.destroy_process_group()


def shard_and_run(kind, path):
    model = build(kind)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    if kind is UntiedModel:
        fully_shard(model.head, mesh=mesh)  # its own hooks, fired by calling the module
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    for module in (module for module in model.modules() if isinstance(module, FSDPModule)):
        module.set_gradient_divide_factor(1.0)  # torch 2.8 does not divide by itself over gloo
        module.set_force_sum_reduction_for_comms(True)
    out = model(*batch())
    ((out.logprobs * torch.arange(N)).sum() / 2).backward()
    grads = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    if dist.get_rank() == 0:
        scores = {"logprobs": out.logprobs.detach(), "entropies": out.entropies.detach()}
        torch.save({**scores, **grads}, path)
    dist.barrier()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """What two processes computed, by kind of model."""
    folder = tmp_path_factory.mktemp("sharded")
    together(run_both, folder)
    return {kind: torch.load(folder / f"{kind.__name__}.pt") for kind in (TiedModel, UntiedModel)}


@pytest.mark.parametrize("kind", [TiedModel, UntiedModel])
def test_fully_sharded_over_two_processes_gives_the_same_numbers(kind, sharded):
    got = sharded[kind]
    model = build(kind)
    out = model(*batch())
    (out.logprobs * torch.arange(N)).sum().backward()
    assert torch.equal(got.pop("logprobs"), out.logprobs)
    assert torch.equal(got.pop("entropies"), out.entropies)
    want = {name: p.grad for name, p in model.named_parameters()}
    assert got.keys() == want.keys()
    for name, grad in want.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-6, atol=1e-7)


def test_it_shares_the_parameters_of_the_layer_it_replaces():
    linear = nn.Linear(D, V)
    head = LogprobEntropyHead.from_linear(linear)
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    hidden, targets = torch.randn(N, D), batch()[1]
    assert torch.equal(head(hidden), linear(hidden))
    want = linear_logprob_entropy(hidden, linear.weight, targets, bias=linear.bias, temperature=0.5)
    assert torch.equal(head(hidden, targets, temperature=0.5).logprobs, want.logprobs)
    with pytest.raises(ValueError, match="temperature have no effect without targets"):
        head(hidden, temperature=0.5)


def test_a_sharded_weight_read_past_the_module_is_refused(monkeypatch):
    class Sharded(torch.Tensor):
        placements = ("Shard(dim=0)",)

    weight = torch.zeros(V, D).as_subclass(Sharded)
    with pytest.raises(ValueError, match="call the head module"):
        linear_logprob_entropy(torch.zeros(N, D), weight, batch()[1])


def with_lora(*, dtype=torch.float32, **settings):
    """A linear layer with a bias and an adapter whose B is not zero, as peft makes it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = nn.ModuleDict({"head": nn.Linear(D, V, dtype=dtype)})
    model.requires_grad_(False)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=6, target_modules=["head"], **settings), model
    )
    layer = model["head"]
    with torch.no_grad():
        for part in (layer.lora_A, layer.lora_B):
            part["default"].weight.copy_(torch.randn(part["default"].weight.shape))
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_lora_on_the_head_is_the_dense_weight(dtype):
    layer = with_lora(dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    a.data, b.data = a.data.to(wide), b.data.to(wide)
    hidden, targets = torch.randn(N, D, dtype=dtype, requires_grad=True), batch()[1]

    def gradients(out):
        loss = out.logprobs @ torch.linspace(-1, 2, N, dtype=out.logprobs.dtype)
        (loss + 0.3 * out.entropies.sum()).backward()
        found = [p.grad.double() for p in (hidden, a, b)]
        hidden.grad = a.grad = b.grad = None
        return found

    got = layer_logprob_entropy(layer, hidden, targets, temperature=0.7, chunk_size=10)
    mine = gradients(got)
    dense = layer.weight.double() + layer.scaling["default"] * (b.double() @ a.double())
    want = linear_logprob_entropy(
        hidden.double(), dense, targets, bias=layer.bias.double(), temperature=0.7, impl="reference"
    )
    close = (
        {"rtol": 1e-12, "atol": 1e-12} if wide == torch.float64 else {"rtol": 1e-5, "atol": 2e-5}
    )
    torch.testing.assert_close(got.logprobs.double(), want.logprobs, **close)
    torch.testing.assert_close(got.entropies.double(), want.entropies, **close)
    for ours, true in zip(mine, gradients(want), strict=True):
        rounded = {"rtol": 2**-8, "atol": 1e-5} if dtype == torch.bfloat16 else close
        torch.testing.assert_close(ours, true, **rounded)


def test_lora_on_the_head_switched_off_is_the_layer_under_it():
    layer = with_lora()
    hidden, targets = torch.randn(N, D), batch()[1]
    plain = linear_logprob_entropy(hidden, layer.weight, targets, bias=layer.bias)
    assert not torch.equal(layer_logprob_entropy(layer, hidden, targets).logprobs, plain.logprobs)
    layer.enable_adapters(False)
    assert torch.equal(layer_logprob_entropy(layer, hidden, targets).logprobs, plain.logprobs)
    layer.enable_adapters(True)
    layer.scaling["default"] = 0.0
    assert torch.equal(layer_logprob_entropy(layer, hidden, targets).logprobs, plain.logprobs)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.1}])
def test_adapters_that_are_no_plain_lora_are_refused(more):
    with pytest.raises(ValueError, match="no plain LoRA without dropout or bias"):
        layer_logprob_entropy(with_lora(**more), torch.randn(N, D), batch()[1])
