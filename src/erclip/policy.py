"""The policy: a causal language model that samples, and that scores tokens through the op.

Both scoring passes, old and new, are the same function in the same dtype on the same micro-batches,
so that at equal weights every ratio is exactly 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from erclip.batches import TokenBatch
from erclip.config import ModelConfig
from erclip.distributed import World
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.ops import LogprobEntropy, linear_logprob_entropy
from erclip.ops.reference import scores_from_logits
from erclip.packing import Row, shared_rows, single_rows
from erclip.probes import prompts_can_be_shared
from erclip.records import Sample
from erclip.sharding import gathered, shard

PROBE_TOLERANCE = 1e-3  # nats; a scaled or capped head that we do not know is off by far more


@dataclass(frozen=True)
class Scores:
    """Per response token (index t scores token t), in nats, zero outside the batch's mask."""

    logprobs: Float[Tensor, "B T"]
    entropies: Float[Tensor, "B T"]
    slopes: Float[Tensor, "B T"] | None


class Policy:
    """A loaded model with its tokenizer, able to score a `TokenBatch`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        head: str = "op",
        temperature: float = 1.0,
        checkpointing: bool = False,
    ):
        self.model = model
        self.checkpointing = checkpointing
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.head = head
        self._sharded = False
        text_config = model.config.get_text_config()
        self.softcap: float | None = getattr(text_config, "final_logit_softcapping", None)
        self.shares_prompts = prompts_can_be_shared(model)
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
        return self.tokenizer.eos_token_id if pad is None else pad

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

    def rows(self, samples: Iterable[Sample], token_budget: int) -> list[Row]:
        """Rows in which this model reads a prompt once for several responses, if it can."""
        if not self.shares_prompts:
            return single_rows(samples)
        return shared_rows(samples, self.model.config.get_text_config().hidden_size, token_budget)

    def score(
        self, batch: TokenBatch, *, slopes: bool = False, entropy_gradient: bool = False
    ) -> Scores:
        """log π and H of every token in the batch's mask; gradient flows through log π.

        Through H it flows if asked for: what nobody differentiates costs nothing.
        """
        # transformers checkpoints activations in training mode only; there is no dropout to turn on
        training = self.checkpointing and torch.is_grad_enabled()
        if self.model.training != training:  # the call walks through every module
            self.model.train(training)
        out = self._within(lambda: self._score_tokens(batch, slopes))
        shape = batch.mask.shape

        def place(values: Tensor) -> Tensor:
            flat = values.new_zeros(shape.numel()).index_copy(0, batch.token_index, values)
            return flat.view(shape)

        return Scores(
            place(out.logprobs),
            place(out.entropies if entropy_gradient else out.entropies.detach()),
            None if out.slopes is None else place(out.slopes),
        )

    def _within(self, work: Callable[[], LogprobEntropy]) -> LogprobEntropy:
        return self.model.within(work) if self._sharded else work()

    def _score_tokens(self, batch: TokenBatch, slopes: bool) -> LogprobEntropy:
        if self.head == "logits":
            logits = self.model(**batch.inputs, use_cache=False).logits.flatten(0, 1)
            logits = logits[batch.hidden_index].float()
            scores = scores_from_logits(logits / self.temperature, batch.targets, slopes)
            return LogprobEntropy(*scores)
        hidden = self.model.base_model(**batch.inputs, use_cache=False).last_hidden_state.flatten(
            0, 1
        )
        output = self.model.get_output_embeddings()
        return linear_logprob_entropy(
            hidden[batch.hidden_index],
            output.weight,
            batch.targets,
            bias=output.bias,
            temperature=self.temperature,
            softcap=self.softcap,
            slopes=slopes,
        )

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a model whose logits are not hidden · weight + bias: wrong numbers look right."""
        output = self.model.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise UserError(_refusal("it has no linear output head"))
        ids = (
            torch.arange(8, device=self.device)[None]
            % self.model.config.get_text_config().vocab_size
        )
        expected = self.model(input_ids=ids, use_cache=False).logits[0].double()
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        got = linear_logprob_entropy(
            hidden, output.weight, ids[0], bias=output.bias, softcap=self.softcap
        )
        reference = torch.log_softmax(expected, -1).gather(1, ids[0][:, None]).squeeze(1)
        gap = (got.logprobs.double() - reference).abs().max().item()
        tolerance = PROBE_TOLERANCE if hidden.dtype == torch.float32 else 0.25
        if not gap <= tolerance:
            raise UserError(
                _refusal(f"its log-probs differ by {gap:.2g} nats from the model's own")
            )


def _refusal(why: str) -> str:
    return (
        f"The memory-saving head cannot serve this model: {why}; "
        'set model.head = "logits" to form all logits instead.'
    )


def load_policy(config: ModelConfig, temperature: float = 1.0) -> Policy:
    """Load model and tokenizer from "embedded", a local folder or the hub, dropout off."""
    path = model_folder(config.path)
    _check_folder(path)
    device = _device(config.device)
    trust = config.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        model_config = AutoConfig.from_pretrained(path, trust_remote_code=trust)
        _remove_dropout(model_config)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=model_config,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=trust,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"Model {config.path!r} cannot be loaded: {first}") from error
    model = model.to(device)
    if config.gradient_checkpointing:
        renamed = getattr(model, "activation_checkpointing_enable", None)  # its newer name
        (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.eval()
    return Policy(
        model,
        tokenizer,
        head=config.head,
        temperature=temperature,
        checkpointing=config.gradient_checkpointing,
    )


def model_folder(path: str) -> str:
    """The folder (or hub id) that `model.path` names."""
    return str(embedded_model_dir()) if path == "embedded" else path


def _check_folder(path: str) -> None:
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{path} is not a model folder: it has no config.json.")
    if folder.is_file():
        raise UserError(f"{path} is a file; model.path must name a model folder or a hub id.")
    if looks_local and not folder.exists():
        raise UserError(
            f"No model folder {path!r}; check model.path, or give a hub id (owner/name)."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"model.device = {name!r} is no device; try auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"model.device = {name!r}, but this machine shows no CUDA device.")
    return device


def _remove_dropout(config: Any) -> None:
    """Dropout would make old and new log-probs differ at equal weights."""
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if getattr(config, key, 0):
            setattr(config, key, 0.0)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning after forks
disable_progress_bar()  # a bar for every checkpoint would break the run's own display
