"""verl's FSDP engine with our head: exact float32 log-probs and entropies, and no logits.

verl computes entropies from logits in the trunk's dtype, whose rounding alone moves tokens out of a
±5 % band (docs/verl.md). Here the model's output layer returns the two numbers per token that the
loss needs in place of the vocabulary's logits, so nothing between them can round.

Letters: L positions (packed, or one padded row), K = 2 or 4 numbers per position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from erclip.integrations.verl import require_verl

require_verl()

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from erclip.errors import UserError
from erclip.integrations.verl.loss import SLOPES, ERCLoss
from erclip.ops import LogprobEntropyHead
from erclip.training.rounding import due, nudged_embeddings
from erclip.training.updates import uses_erc

VENDOR = "erclip"  # the registry's key; the variable VERL_ENGINE_VENDOR selects it


class Request(NamedTuple):
    """What the next forward pass is to score."""

    targets: Int[Tensor, "R L"]
    temperature: float
    slopes: bool


class ScoringHead(LogprobEntropyHead):
    """An output layer that, once asked, returns (log π, H[, two slopes]) where logits would be.

    FSDP gathers a weight around its module's `forward`, so the op runs inside it. A request serves
    one forward pass; without one this is the linear layer it replaced, for generation.
    """

    request: Request | None = None
    scores: Tensor | None = None

    def forward(self, input: Float[Tensor, "R L D"], *args: Any, **kwargs: Any) -> Any:
        """Scores [R, L, K] if there is a request; log π alone carries gradient."""
        if self.request is None:
            return super().forward(input, *args, **kwargs)
        targets, temperature, slopes = self.request
        self.request = None
        if targets.shape != input.shape[:-1]:
            raise ValueError(
                f"targets are {list(targets.shape)}, hidden states {list(input.shape)}: this model "
                "does not score every position."
            )
        out = super().forward(
            input.flatten(0, -2), targets.flatten(), temperature=temperature, slopes=slopes
        )
        columns = [out.logprobs, out.entropies.detach()]
        if out.slopes is not None and out.slope_means is not None:
            columns += [out.slopes, out.slope_means]
        columns = [column.unflatten(0, targets.shape) for column in columns]
        self.scores = torch.stack(columns, -1)  # not a view, to which FSDP2 objects
        return self.scores

    def take(self, logits: Tensor) -> Float[Tensor, "R L K"]:
        """What `forward` returned, unless the model changed it on the way (softcap, scaling)."""
        scores, self.scores = self.scores, None
        if scores is None or logits.data_ptr() != scores.data_ptr():
            raise UserError(
                "this model does something to its logits after the output layer (a softcap or a "
                "scale), which erclip's engine for verl does not know; use another model."
            )
        return scores


@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"], vendor=VENDOR
)
class ERCEngine(FSDPEngineWithLMHead):
    """`FSDPEngineWithLMHead` whose log-probs and entropies come from `ScoringHead`."""

    _slopes = False
    _updates = 0  # since the rollout was last scored
    _rollouts = 0  # that were trained on

    def _build_module(self) -> nn.Module:
        module = super()._build_module()
        output = module.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise UserError("this model has no linear output layer, which erclip's engine needs.")
        self._head = ScoringHead.from_linear(output)
        module.set_output_embeddings(self._head)
        return module

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        if not any(part is self._head for part in module.modules()):
            raise UserError(
                "something (LoRA on the output layer, quantisation) replaced the output layer; "
                "exclude it, e.g. actor_rollout_ref.model.exclude_modules=lm_head."
            )
        return super()._build_fsdp_module(module)

    def infer_batch(self, data: Any, loss_function: Any = None) -> Any:
        """Score with the policy as it is: the next update is the first of its rollout."""
        self._updates = 0
        return super().infer_batch(data, loss_function)

    def train_batch(self, data: Any, loss_function: Any) -> Any:
        """One optimiser step; the loss must be ours, or nothing would read these entropies."""
        if not isinstance(loss_function, ERCLoss):
            raise UserError(
                f"the worker's loss function is {loss_function!r}, not erclip's; start the run "
                "with `erclip verl`."
            )
        self._slopes = not loss_function.loss_fn.needs.isdisjoint(SLOPES)
        self._updates += 1
        tu.assign_non_tensor(data, update_in_rollout=self._updates)
        loss_function.prepare(data, self.get_data_parallel_group())
        try:
            rounding = self._rounding(data, loss_function)
            outputs = super().train_batch(data, loss_function)
        finally:
            self._slopes = False
        outputs["metrics"].update(rounding)
        return outputs

    def _rounding(self, data: Any, loss_function: ERCLoss) -> dict[str, Any]:
        """What ERC clips for rounding alone, where it is due: `erclip.training.rounding`."""
        if self._updates > 1:
            return {}
        self._rollouts += 1
        if not due(self._rollouts) or not uses_erc(loss_function.loss_fn):
            return {}
        with nudged_embeddings(self.module):
            metrics = super().infer_batch(data, loss_function)["metrics"]
        name = "clip/erc_frac"  # of a forward pass that is nobody's update
        return {"erc/rounding_frac": metrics[name]} if name in metrics else {}

    def prepare_model_inputs(self, micro_batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """verl's inputs; the head learns which tokens to score."""
        model_inputs, output_args = super().prepare_model_inputs(micro_batch=micro_batch)
        temperature = micro_batch["temperature"]
        if isinstance(temperature, Tensor):
            raise UserError("a temperature per sample is not supported by erclip's engine.")
        if tu.get_non_tensor_data(micro_batch, "use_remove_padding", True):
            targets = output_args["input_ids_rmpad_rolled"][None]
        else:  # the last column scores nothing: index t scores token t + 1
            targets = model_inputs["input_ids"].roll(-1, dims=1)
        self._head.request = Request(targets, float(temperature), self._slopes)
        return model_inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Nested log-probs (and entropies, slopes) of all positions, as verl's engine returns."""
        scores = self._head.take(output.logits)
        offsets = micro_batch["input_ids"].offsets()
        if tu.get_non_tensor_data(micro_batch, "use_remove_padding", True):
            scores = self._gather_and_unpad_packed(scores[0], output_args["pad_size"])
        else:
            lengths = offsets.diff()
            inside = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
            scores = scores[inside]
        names = ["log_probs"]
        if tu.get_non_tensor_data(micro_batch, "calculate_entropy", False):
            names += ["entropy", *SLOPES][: scores.shape[-1] - 1]
        return {
            name: torch.nested.nested_tensor_from_jagged(
                scores[:, i] if name == "log_probs" else scores[:, i].detach(), offsets
            )
            for i, name in enumerate(names)
        }
