"""LoRA through peft: a frozen model with low-rank adapters (arXiv 2106.09685), W + (α/r) · B A.

B begins at zero, so the policy begins as the model. Adapters are float32 whatever the model's
dtype is. What leaves the trainer (checkpoints, vLLM) is merged; `adapter/` of a checkpoint holds
the adapters in peft's own format, and a run goes on from them and the model it began with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.core_model_loading import revert_weight_conversion

from erclip.config.model import Lora
from erclip.errors import UserError
from erclip.extras import need
from erclip.training.policy.signature import FAILURES

FOLDER = "adapter"
NAME = "default"  # peft's name of a model's only adapter
PREFIX = "base_model.model."  # peft's files name parameters as its own wrapper does
SAME = 1e-2  # of a tensor's largest entry; the merged weights may come from another device


def add_adapters(model: Any, lora: Lora, seed: int) -> None:
    """Freeze `model` and put an adapter beside each target; the seed decides A."""
    peft = need("peft", "model.lora")
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        exclude_modules=_unfit(model) or None if isinstance(targets, str) else None,
        task_type="CAUSAL_LM",
    )
    settings.base_model_name_or_path = model.name_or_path
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, model)
        except ValueError as error:
            said = str(error).strip().splitlines()[0]
            raise UserError(f"model.lora.targets = {lora.targets!r} does not fit: {said}") from None
    _refuse_others(model, lora)
    for name, parameter in model.named_parameters():
        adapter = ".lora_" in name
        parameter.requires_grad_(adapter)
        if adapter:
            parameter.data = parameter.data.float()


def adapted(model: Any) -> dict[str, Any]:
    """Name → layer of everything that has an adapter; nothing without LoRA."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@contextmanager
def switched_off(model: Any) -> Generator[None]:
    """The frozen model alone, in a pass without gradients: adding 0 · B A x changes no bit."""
    layers = adapted(model).values()
    kept = [layer.scaling[NAME] for layer in layers]
    for layer in layers:
        layer.scaling[NAME] = 0.0
    try:
        yield
    finally:
        for layer, scaling in zip(layers, kept, strict=True):
            layer.scaling[NAME] = scaling


@torch.no_grad()
def merged(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the plain architecture: B A added in float32, then rounded to the model's dtype.

    `weights` are the model's own, whole; those without adapters are passed on, not copied. peft
    wraps a layer once for each of its adapted parameters, so a name may hold several wrappers.
    """
    found = {plain_name(name): value for name, value in weights.items() if ".lora_" not in name}
    for owner, layer in adapted(model).items():
        name = f"{plain_name(owner)}.{getattr(layer, 'parameter_name', 'weight')}"
        low, high = (weights[f"{owner}.lora_{part}.{NAME}.weight"] for part in "AB")
        value = found[name]
        change = layer.scaling[NAME] * _product(layer, low, high, value.ndim)
        found[name] = (value.float() + change.view(value.shape)).to(value.dtype)
    return found


def plain_name(name: str) -> str:
    """A parameter's name, or a layer's, in the architecture without adapters."""
    return name.replace(".base_layer", "")


def _product(layer: Any, low: Tensor, high: Tensor, ndim: int) -> Tensor:
    """B A as the layer's parameter is laid out: [out, in], or [experts, …] of fused experts.

    peft stacks the A of E experts as [E·r, in] and interleaves their B as [out, r·E].
    """
    if ndim < 3:
        product = high.float() @ low.float()
        return product.T if layer.fan_in_fan_out else product
    experts = layer.num_experts
    a, b = low.float().unflatten(0, (experts, -1)), high.float().unflatten(1, (-1, experts))
    product = torch.einsum("ore,eri->eoi", b, a)
    return product if layer._did_swap_in_out_features else product.mT


def save_adapters(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write `adapter/` as peft does: `PeftModel.from_pretrained(base, folder / "adapter")`."""
    target, settings = folder / FOLDER, model.peft_config[NAME]
    settings.save_pretrained(target)
    _sort_sets(target / "adapter_config.json", settings)
    tensors = {
        PREFIX + name.replace(f".{NAME}.weight", ".weight"): value.contiguous()
        for name, value in weights.items()
        if ".lora_" in name
    }
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})


def _sort_sets(file: Path, settings: Any) -> None:
    """peft writes a set's names in another order in every process: in order, files are equal."""
    written = json.loads(file.read_text(encoding="utf-8"))
    for name, value in vars(settings).items():
        if isinstance(value, (set, frozenset)):
            written[name] = sorted(value)
    file.write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")


@torch.no_grad()
def load_adapters(model: Any, folder: Path) -> None:
    """Put back what `save_adapters` wrote into `folder`, a checkpoint.

    Raises UserError where the model under the adapters is not the one that they were trained on:
    the two together have to give the checkpoint's merged weights.
    """
    own = dict(model.named_parameters())
    for name, value in load_file(folder / FOLDER / "adapter_model.safetensors").items():
        own[name.removeprefix(PREFIX).replace(".weight", f".{NAME}.weight")].copy_(value)
    whole = merged(model, {name: value.detach() for name, value in model.state_dict().items()})
    whole = revert_weight_conversion(model, whole)  # names and shapes of files, not of modules
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys() & whole.keys():
                expected, got = saved.get_tensor(name).float(), whole[name].float().cpu()
                if (
                    expected.shape != got.shape
                    or (expected - got).abs().max() > SAME * expected.abs().max()
                ):
                    raise UserError(
                        f"{folder} holds adapters for another model than {model.name_or_path} is "
                        f"now ({name} differs); put the model back that the run began with"
                    )


def _unfit(model: Any) -> list[str]:
    """Names of layers that all-linear would take, and whose adapter would not be W + B A.

    Layers that do more than W x + b (routers, quantising layers); layers whose owner reads their
    weight and never calls them; the output of state-space mixers, which kernels read; and weights
    that several layers share.
    """
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    called = _called(model)
    unfit = []
    for name, layer in linear.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        mixer = hasattr(owner, "D") and any(isinstance(m, nn.Conv1d) for m in owner.children())
        bypassed = owner in called and layer not in called
        shared = owners[id(layer.weight)] > 1
        if _is_more(layer) or bypassed or shared or (mixer and name.endswith("out_proj")):
            unfit.append(name)
    return unfit


@torch.no_grad()
def _called(model: Any) -> set[Any]:
    """The modules whose forward runs when a few tokens are read; none if that fails."""
    seen: set[Any] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: seen.add(module))
        for module in model.modules()
    ]
    try:
        model(input_ids=torch.arange(8, device=model.device)[None], use_cache=False)
    except FAILURES:
        return set()
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _is_more(module: Any) -> bool:
    """An `nn.Linear` that does something else than W x + b: W + B A would not be that.

    A forward of its own is tried on one vector: Falcon's, for one, is W x + b after all.
    """
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return False
    weight = module.weight
    x = torch.linspace(-1, 1, module.in_features, dtype=weight.dtype, device=weight.device)[None]
    expected = functional.linear(x, weight, module.bias)
    rounding = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 1e-2
    try:
        return bool((module(x) - expected).abs().max() > rounding * expected.abs().max())
    except FAILURES:
        return True


def _refuse_others(model: Any, lora: Lora) -> None:
    """Only linear layers, and a head only if merging it would not change the input embedding."""
    output = model.get_output_embeddings()
    if hasattr(output, "lora_A") and output.weight is model.get_input_embeddings().weight:
        raise UserError(
            f"model.lora.targets = {lora.targets!r} would adapt an output head that is also the "
            "input embedding; leave it out (all-linear does)"
        )
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, layer in adapted(model).items():
        if any(owners[id(p)] > 1 for p in layer.get_base_layer().parameters(recurse=False)):
            raise UserError(
                f"model.lora.targets = {lora.targets!r} would adapt {name}, whose weight other "
                "layers share; leave it out (all-linear does)"
            )
        linear = layer.lora_A.keys() == {NAME} and isinstance(layer.lora_A[NAME], nn.Linear)
        if not linear or _is_more(layer.get_base_layer()):
            raise UserError(
                f"model.lora.targets = {lora.targets!r} names {name}, which is no linear layer; "
                "leave it out"
            )
