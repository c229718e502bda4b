"""What erclip adds to vLLM's worker: taking over new weights without a restart.

vLLM mixes `WeightUpdate` into its worker class (`worker_extension_cls`), in this process or in a
server's; its methods are then called by name. This module is loaded where vLLM is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

EXTENSION = f"{__name__}.WeightUpdate"


class WeightUpdate:
    """Methods of a vLLM worker; `reload_weights` and `model_runner` are the worker's own."""

    reload_weights: Any
    model_runner: Any

    def erclip_ready(self) -> str:
        """Answers where this extension is installed."""
        return "ready"

    def erclip_load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over tensors under their checkpoint names."""
        self.reload_weights(weights_iterator=iter(weights))
        repack_heads(self.model_runner.get_model())

    def erclip_reload(self, folder: str) -> None:
        """Take over the weights of a model folder that this worker can read."""
        self.reload_weights(weights_path=folder)
        repack_heads(self.model_runner.get_model())


def repack_heads(model: Any) -> None:
    """Let every output head compute with its present weight.

    On a CPU, vLLM packs a layer's weight for its matrix product when it loads it. A head that is
    tied to the embedding has no weight of its own in a checkpoint: on a reload, nothing packs it
    again, and it would go on computing with the old one.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        UnquantizedEmbeddingMethod,
    )

    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(module, ParallelLMHead) and isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(module)
