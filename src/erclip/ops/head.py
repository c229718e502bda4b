"""The op as a module, so that FSDP2's hooks gather a sharded head; and over a layer with LoRA.

Letters: N tokens, D hidden size, V vocabulary, r rank of an adapter.
"""

from __future__ import annotations

from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from erclip.ops.logprob_entropy import LogprobEntropy, linear_logprob_entropy


class LogprobEntropyHead(nn.Linear):
    """An `nn.Linear` that, given targets, returns their log π and H instead of the logits.

    `fully_shard` gathers a module's weight around its `forward`: a sharded head must be called,
    not have its weight read. Without targets it is the linear layer it replaces, for sampling.

    >>> import torch
    >>> head = LogprobEntropyHead.from_linear(nn.Linear(3, 4, bias=False))
    >>> head(torch.zeros(1, 3), torch.tensor([2])).entropies
    tensor([1.3863], grad_fn=<_HeadBackward>)
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> LogprobEntropyHead:
        """Share the parameters of an existing head: tied embeddings stay tied."""
        head = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        head.weight = linear.weight
        head.bias = linear.bias
        return head

    @overload
    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]: ...

    @overload
    def forward(
        self, input: Float[Tensor, "N D"], targets: Int[Tensor, " N"], **options: Any
    ) -> LogprobEntropy: ...

    def forward(
        self, input: Tensor, targets: Tensor | None = None, **options: Any
    ) -> Tensor | LogprobEntropy:
        """Logits without targets, else `linear_logprob_entropy` with this weight and bias."""
        if targets is None:
            if options:
                raise ValueError(f"{', '.join(options)} have no effect without targets")
            return super().forward(input)
        return linear_logprob_entropy(input, self.weight, targets, bias=self.bias, **options)


def layer_logprob_entropy(
    layer: Any, hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"], **options: Any
) -> LogprobEntropy:
    """`linear_logprob_entropy` of `layer(hidden)`: an `nn.Linear`, or peft's LoRA layer around one.

    `h Wᵀ + s (h Aᵀ) Bᵀ = [h, s h Aᵀ] [W, B]ᵀ` (LoRA, arXiv 2106.09685) is one product, in which W
    is not rounded to W + s B A. `[W, B]` and its gradient are formed whole, V × (D + r) each,
    although a frozen W needs none.

    Raises:
        ValueError: an adapter that is no plain LoRA, or that has dropout or a bias.
    """
    names = [] if getattr(layer, "disable_adapters", True) or layer.merged else layer.lora_A.keys()
    columns, weights = [hidden], [layer.weight]
    for name in names:
        scale = layer.scaling[name]
        if name not in layer.active_adapters or scale == 0:
            continue
        low, high = layer.lora_A[name], layer.lora_B[name]
        dropout = getattr(layer.lora_dropout[name], "p", 0.0)
        if name in layer.lora_variant or high.bias is not None or dropout > 0:
            raise ValueError(
                f"adapter {name!r} on the head is no plain LoRA without dropout or bias"
            )
        dtype = torch.promote_types(hidden.dtype, low.weight.dtype)
        columns[0] = columns[0].to(dtype)  # so that its gradient is rounded once, as a sum
        columns.append(scale * (columns[0] @ low.weight.T.to(dtype)))
        weights.append(high.weight)
    return linear_logprob_entropy(
        columns[0] if len(columns) == 1 else torch.cat(columns, 1),
        weights[0] if len(weights) == 1 else torch.cat(weights, 1),
        targets,
        bias=layer.bias,
        **options,
    )
