"""The policy: a causal language model that samples, and that scores tokens through the op.

Both scoring passes, old and new, are the same function in the same dtype on the same micro-batches,
so that at equal weights every ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from erclip.config import ModelConfig
from erclip.errors import UserError, as_user_error
from erclip.machine.distributed import World
from erclip.ops import LogprobEntropy, layer_logprob_entropy
from erclip.ops.reference import scores_from_logits
from erclip.records import Sample
from erclip.training.batches import TokenBatch
from erclip.training.packing import Row, shared_rows, single_rows
from erclip.training.policy.adapters import (
    adapted,
    add_adapters,
    load_adapters,
    merged,
    switched_off,
)
from erclip.training.policy.checkpointing import checkpoint_layers
from erclip.training.policy.heads import keeps_logits, unlike_head
from erclip.training.policy.loading import load_pretrained
from erclip.training.policy.positions import Positions
from erclip.training.policy.precision import autocast_dtype, autocast_trunk
from erclip.training.policy.probes import prompts_can_be_shared, refuse_unsteady
from erclip.training.policy.saving import Saver
from erclip.training.policy.signature import trunk, vocabulary_size
from erclip.training.sharding import gathered, shard


@dataclass(frozen=True)
class Scores:
    """Per response token (index t scores token t), in nats, zero outside the batch's mask."""

    logprobs: Float[Tensor, "B T"]
    entropies: Float[Tensor, "B T"]
    slopes: Float[Tensor, "B T"] | None = None
    slope_means: Float[Tensor, "B T"] | None = None
    top_logprobs: Float[Tensor, "B T K"] | None = None


class Policy:
    """A loaded model with its tokenizer, able to score a `TokenBatch`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        head: str = "op",
        temperature: float = 1.0,
        trust_remote_code: bool = False,
    ):
        self.model = model.eval()  # for good: both passes, and sampling, are one function
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.head = head
        self.positions = Positions(model)
        self.lengths: tuple[int, int] | None = None  # of the texts it has been fitted to
        self._saver = Saver(model, self.positions, trust_remote_code=trust_remote_code)
        self._sharded = False
        self.has_adapters = bool(adapted(model))
        text_config = model.config.get_text_config()
        self.softcap: float | None = getattr(text_config, "final_logit_softcapping", None)
        self.shares_prompts = prompts_can_be_shared(
            model, rounded=autocast_dtype(model) is not None
        )
        if head == "op":
            self._probe()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def pad_id(self) -> int:
        """Any valid id will do: padding is masked out of attention and of the loss."""
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        return pad if pad is not None and pad < vocabulary_size(self.model) else 0

    def shard(self, world: World) -> None:
        """Keep only this process's slice of every parameter; nothing with one process."""
        if world.size > 1:
            shard(self.model, world)
            self._sharded = True

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Whole parameters, for sampling: no forward pass in here waits for another process."""
        if not self._sharded:
            yield
            return
        with gathered(self.model):
            yield

    def weights(self) -> dict[str, Tensor]:
        """Parameters by the architecture's own names, adapters merged; whole inside `gathered`."""
        own = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        return merged(self.model, own)

    def save_model(self, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
        """An ordinary model folder, with the adapters beside it if there are any.

        `whole` are a sharded model's tensors, which another process may have gathered. Raises
        UserError if the folder does not hold the model: see `Saver`.
        """
        if whole is None and self._sharded:
            whole = self._saver.tensors()
        self._saver.save(folder, whole)

    def fit(self, prompt: int, response: int) -> str | None:
        """Get ready for prompts and responses of so many tokens: see `Positions.fit`."""
        self.lengths = (prompt, response)
        return self.positions.fit(prompt, response)

    def rows(self, samples: Iterable[Sample], token_budget: int) -> list[Row]:
        """Rows in which this model reads a prompt once for several responses, if it can."""
        if not self.shares_prompts:
            return single_rows(samples)
        return shared_rows(samples, self.model.config.get_text_config().hidden_size, token_budget)

    def score(
        self,
        batch: TokenBatch,
        *,
        slopes: bool = False,
        entropy_gradient: bool = False,
        top: bool = False,
    ) -> Scores:
        """log π and H of every token in the batch's mask; gradient flows through log π.

        Through H it flows if asked for: what nobody differentiates costs nothing. `top` also scores
        the batch's `top_ids`.
        """
        ids = batch.top_ids if top else None
        out = self._within(lambda: self._score_tokens(batch, slopes, ids))
        shape = batch.mask.shape

        def place(values: Tensor | None) -> Any:
            if values is None:
                return None
            flat = values.new_zeros((shape.numel(), *values.shape[1:]))
            placed = flat.index_copy(0, batch.token_index, values)
            return placed.view((*shape, *values.shape[1:]))

        return Scores(
            place(out.logprobs),
            place(out.entropies if entropy_gradient else out.entropies.detach()),
            place(out.slopes),
            place(out.slope_means),
            place(out.top_logprobs),
        )

    @torch.no_grad()
    def score_frozen(self, batch: TokenBatch) -> Scores:
        """What the model under the adapters thinks of the batch's tokens."""
        with switched_off(self.model):
            return self.score(batch)

    def _within(self, work: Callable[[], LogprobEntropy]) -> LogprobEntropy:
        return self.model.within(work) if self._sharded else work()

    def _score_tokens(
        self, batch: TokenBatch, slopes: bool, top_ids: Tensor | None
    ) -> LogprobEntropy:
        if self.head == "logits":
            logits = self.model(**batch.inputs, use_cache=False).logits.flatten(0, 1)
            logits = pick_rows(logits, batch.hidden_index).float()
            scores = scores_from_logits(logits / self.temperature, batch.targets, slopes, top_ids)
            return LogprobEntropy(*scores)
        hidden = trunk(self.model)(**batch.inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        rows = pick_rows(hidden, batch.hidden_index)
        return layer_logprob_entropy(
            self.model.get_output_embeddings(),
            rows,
            batch.targets,
            cache_logits=keeps_logits(len(rows), vocabulary_size(self.model), rows.dtype),
            temperature=self.temperature,
            softcap=self.softcap,
            slopes=slopes,
            top_ids=top_ids,
        )

    def _probe(self) -> None:
        """Refuse a model whose logits are not hidden · weight + bias: wrong numbers look right."""
        why = unlike_head(self.model)
        if why is not None:
            raise UserError(_refusal(why))


def pick_rows(values: Float[Tensor, "P D"], index: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """values[index] whose gradient is the same on every run.

    A prompt's last position serves several responses. Indexing adds their gradients in the order in
    which threads arrive; a table's lookup adds them in order, on a CPU and on a GPU.
    """
    return functional.embedding(index, values)


def _refusal(why: str) -> str:
    return (
        f"The memory-saving head cannot serve this model: {why}; "
        'set model.head = "logits" to form all logits instead.'
    )


def load_policy(
    config: ModelConfig,
    temperature: float = 1.0,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Policy:
    """Load model and tokenizer from "embedded", a local folder or the hub, dropout off.

    The weights are those of `checkpoint` if one is given; with LoRA its adapters on the model of
    `config`, else adapters that begin with `seed`.
    """
    with as_user_error(f"Model {config.path!r} cannot be used"):
        return _load_policy(config, temperature, seed, checkpoint)


def _load_policy(
    config: ModelConfig, temperature: float, seed: int, checkpoint: Path | None
) -> Policy:
    if checkpoint is not None and config.lora is None:
        config = config.model_copy(update={"path": str(checkpoint)})
    model, tokenizer = load_pretrained(config)
    if config.lora is not None:
        add_adapters(model, config.lora, seed)
        if checkpoint is not None:
            load_adapters(model, checkpoint)
    if config.autocast is not None:
        autocast_trunk(model, getattr(torch, config.autocast))
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    policy = Policy(
        model,
        tokenizer,
        head=config.head,
        temperature=temperature,
        trust_remote_code=config.trust_remote_code,
    )
    refuse_unsteady(policy)
    return policy
