"""The settings of a run: every key of a recipe, with its bounds. Torch-free.

People write TOML, machines write JSON. Unknown keys and wrong types are refused; alternatives are
tables with a `kind`, and `loss.surrogate = "gppo_clip"` is short for `{kind = "gppo_clip"}`. A
surrogate's or a constraint's `kind` is the name of the factory in `erclip.losses`, its other keys
are that factory's arguments.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Frozen, strictly typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _sampler(value: Any) -> Any:
    value = _kind(value)
    return {"kind": "transformers", **value} if isinstance(value, dict) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Lora(Section):
    """Low-rank adapters on a frozen model; dropout would fake ratios, so there is none."""

    rank: Count = Field(16, description="rank of B A, r")
    alpha: Count = Field(32, description="the change is (alpha / rank) · B A")
    targets: Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_tuple)] = Field(
        "all-linear", description='ends of layers\' names, such as ["q_proj", "v_proj"]'
    )


class ModelConfig(Section):
    """The policy: any Hugging Face causal language model."""

    path: str = Field("embedded", description='"embedded", a local folder or a hub id')
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of weights and activations; the head's outputs are float32"
    )
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="dtype of the products below the head, beside float32 weights; None = as dtype",
    )
    lora: Lora | None = Field(None, description="train adapters (peft); None = every weight")
    device: str = Field("auto", description='"auto" (CUDA if there is one), "cpu", "cuda:1", …')
    head: Literal["op", "logits"] = Field(
        "op",
        description='"op" never forms the whole vocabulary\'s logits; "logits" serves models whose '
        "logits are not hidden · weight, at full memory",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="after")
    def _autocast_has_an_effect(self) -> ModelConfig:
        if self.autocast is None:
            return self
        if self.dtype != "float32":
            raise ValueError(
                f"model.autocast has no effect on {self.dtype} weights; set model.dtype = float32 "
                "or leave it out"
            )
        if self.lora is not None:
            raise ValueError(
                f"model.autocast keeps float32 weights for small updates, but model.lora freezes "
                f"them and its adapters are float32 anyway; set model.dtype = {self.autocast}"
            )
        return self


class DataConfig(Section):
    """Where prompts come from and how answers are read."""

    path: str = Field(
        "countdown",
        description='"countdown", a local JSONL or Parquet file, a hub data set id '
        '(owner/name[:config]), "reasoning-gym:TASK", or a task that a package installed',
    )
    test_path: str | None = Field(None, description="held-out rows; None splits `path` by hash")
    split: str = Field("train", description="split of a hub data set")
    test_split: str | None = Field(None, description="held-out split of a hub data set")
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share held out by hash where there is no test_path"
    )
    instruction: str = Field("", description="appended to the last user message of every prompt")
    system_prompt: str = Field("", description="system message put before every prompt")
    after_think: bool = Field(False, description="grade only the text after the last </think>")
    last_number: bool = Field(
        False, description="without a boxed answer, read the last number of the response"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of the embedded or reasoning-gym task"
    )


class SamplerSection(Section):
    """What every sampler is told."""

    max_tokens: Count = Field(1024, description="longest response, in tokens")
    max_prompt_tokens: Count = Field(4096, description="a longer prompt is an error, not cut")
    temperature: Positive = Field(1.0, description="also divides the logits of both scoring passes")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="nucleus; 1 = everything")
    batch_size: Count = Field(256, description="sequences decoded at once")


class TransformersSampler(SamplerSection):
    """Batched sampling through transformers with a key-value cache."""

    kind: Literal["transformers"] = "transformers"


class VllmSection(SamplerSection):
    """What both ways to use vLLM are told."""

    @model_validator(mode="after")
    def _logprobs_are_the_policys(self) -> VllmSection:
        if self.temperature != 1 and self.top_p != 1:
            raise ValueError(
                f"temperature = {self.temperature:g} with top_p = {self.top_p:g}: vLLM gives "
                "log-probs before the temperature or after the nucleus cut; set one of them to 1"
            )
        return self


class VllmSampler(VllmSection):
    """A vLLM engine in this process; its weights follow after each rollout's updates."""

    kind: Literal["vllm"] = "vllm"
    dtype: Literal["model", "float32", "bfloat16", "float16"] = Field(
        "model", description='of weights and activations; "model" = model.dtype'
    )
    memory_frac: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="share of the device's memory for weights, activations and cache"
    )
    kv_cache_gib: Positive | None = Field(
        None, description="size of the key-value cache; None = what memory_frac leaves"
    )
    max_model_len: Count | None = Field(
        None, description="prompt and response; None = max_prompt_tokens + max_tokens"
    )
    tensor_parallel: Count = Field(1, description="GPUs that share one engine")
    compile: bool | None = Field(
        None, description="torch.compile and CUDA graphs, a minute at the start; None = on a GPU"
    )

    @model_validator(mode="after")
    def _one_memory_limit(self) -> VllmSampler:
        if self.kv_cache_gib is not None and self.memory_frac != 0.3:
            raise ValueError("memory_frac has no effect beside kv_cache_gib; leave one out")
        return self


class VllmServerSampler(VllmSection):
    """A vLLM server elsewhere; its weights follow through a folder that both can read."""

    kind: Literal["vllm_server"] = "vllm_server"
    url: Annotated[str, Field(pattern=r"^https?://")] = Field(
        "http://localhost:8000", description="of the server, without /v1"
    )
    folder: str | None = Field(
        None,
        description="where new weights are handed over; None = a temporary folder of this machine",
    )
    timeout_s: Positive = Field(3600, description="longest wait for one answer")


SamplerConfig = Annotated[
    TransformersSampler | VllmSampler | VllmServerSampler,
    Field(discriminator="kind"),
    BeforeValidator(_sampler),
]


class DropDynamicSampling(Section):
    """Drop groups whose rewards are all equal and train on what is left."""

    kind: Literal["drop"] = "drop"


class RefillDynamicSampling(Section):
    """Drop groups whose rewards are all equal and sample again until the batch is full."""

    kind: Literal["refill"] = "refill"
    max_rounds: Count = Field(10, description="rounds of sampling before training on what is there")


class OversampleDynamicSampling(Section):
    """Sample factor × prompts once; keep up to `rollout.prompts` groups whose rewards differ."""

    kind: Literal["oversample"] = "oversample"
    factor: Annotated[float, Field(ge=1)] = 2.0


class NoDynamicSampling(Section):
    """Keep every group; one without differing rewards has zero advantage but counts in N."""

    kind: Literal["off"] = "off"


DynamicSampling = Annotated[
    DropDynamicSampling | RefillDynamicSampling | OversampleDynamicSampling | NoDynamicSampling,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]


class RolloutConfig(Section):
    """How much is sampled between two changes of the old policy."""

    prompts: Count = Field(64, description="groups per rollout")
    responses: Annotated[int, Field(ge=2)] = Field(8, description="responses per prompt, G")
    dynamic_sampling: DynamicSampling = DropDynamicSampling()


class OverlongConfig(Section):
    """DAPO's soft overlong punishment: 0 up to max_length − cache, then linearly down to −1."""

    max_length: Count = Field(description="L_max, in tokens; beyond it the punishment is −1")
    cache: Count = Field(description="L_cache, in tokens")

    @model_validator(mode="after")
    def _cache_fits(self) -> OverlongConfig:
        if self.cache > self.max_length:
            raise ValueError(f"cache ({self.cache}) must not exceed max_length ({self.max_length})")
        return self


class RewardConfig(Section):
    """From a grade to a number."""

    correct: float = 1.0
    wrong: float = 0.0
    missing_think: float | None = Field(
        None, description="reward of a response without </think>; None = graded like any other"
    )
    overlong: OverlongConfig | None = Field(
        None, description="soft overlong punishment; None = off"
    )
    function: Annotated[str, Field(pattern=r".+\.py:\w+$")] | None = Field(
        None,
        description='"file.py:name" of fn(response, grade) → float; replaces correct, wrong and '
        "missing_think, the overlong punishment is still added",
    )

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> RewardConfig:
        if self.function is not None:
            for name in ("correct", "wrong", "missing_think"):
                value, default = getattr(self, name), RewardConfig.model_fields[name].default
                if value != default:
                    raise ValueError(
                        f"reward.{name} = {value} has no effect beside reward.function: "
                        f"leave it at its default ({default})"
                    )
        return self


class PpoClip(Section):
    """PPO-clip; unequal bounds are DAPO's clip-higher."""

    kind: Literal["ppo_clip"] = "ppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.28
    dual: Positive | None = None


class GppoClip(Section):
    """Gradient-preserving clipping."""

    kind: Literal["gppo_clip"] = "gppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.2
    dual: Positive | None = None


class CeGppoClip(Section):
    """GPPO with scaled gradients past the bounds."""

    kind: Literal["ce_gppo_clip"] = "ce_gppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.2
    beta_low: NonNegative = 0.5
    beta_high: NonNegative = 1.0
    dual: Positive | None = None


class CispoClip(Section):
    """Capped importance weights, no token without gradient."""

    kind: Literal["cispo_clip"] = "cispo_clip"
    low: NonNegative = 1.0
    high: NonNegative = 4.0


class GspoClip(Section):
    """Clipping by the ratio of whole responses."""

    kind: Literal["gspo_clip"] = "gspo_clip"
    low: NonNegative = 3e-4
    high: NonNegative = 4e-4


class Sapo(Section):
    """A soft gate in the place of a clip."""

    kind: Literal["sapo"] = "sapo"
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05


class Reinforce(Section):
    """The plain policy gradient."""

    kind: Literal["reinforce"] = "reinforce"


class EntropyRatioClip(Section):
    """ERC: no gradient outside 1 − low < H/H_old < 1 + high."""

    kind: Literal["entropy_ratio_clip"] = "entropy_ratio_clip"
    low: NonNegative = 0.05
    high: NonNegative = 0.05
    rule: Literal["paper", "directional", "directional_sampled"] = "paper"
    min_entropy_change: NonNegative = 0.0
    softness: NonNegative = Field(
        0.0, description="outside the band a token keeps e^(−distance/softness) of its gradient"
    )


class RandomMask(Section):
    """The control: no gradient with probability `rate`."""

    kind: Literal["random_mask"] = "random_mask"
    rate: Fraction


class TruncatedImportance(Section):
    """Weights min(π_old/π_sampler, cap)."""

    kind: Literal["truncated_importance"] = "truncated_importance"
    cap: Annotated[float, Field(ge=1)] = 2.0


class MaskedImportance(Section):
    """Weights π_old/π_sampler, 0 outside [1/cap, cap]."""

    kind: Literal["masked_importance"] = "masked_importance"
    cap: Annotated[float, Field(ge=1)] = 2.0


SurrogateConfig = Annotated[
    PpoClip | GppoClip | CeGppoClip | CispoClip | GspoClip | Sapo | Reinforce,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]
ConstraintConfig = Annotated[
    EntropyRatioClip | RandomMask, Field(discriminator="kind"), BeforeValidator(_kind)
]

ImportanceConfig = Annotated[
    TruncatedImportance | MaskedImportance, Field(discriminator="kind"), BeforeValidator(_kind)
]


class KlConfig(Section):
    """A penalty for leaving a reference model, token mean with the mini-batch's N."""

    weight: NonNegative
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="k3 is GRPO's; k1 and k2 have the gradient of KL(policy‖reference)"
    )
    model: str | None = Field(
        None, description="a folder or hub id; None = the weights that the run began with"
    )


class LossConfig(Section):
    """surrogate × importance × constraints, and what is added to them."""

    surrogate: SurrogateConfig = PpoClip()
    constraints: Annotated[tuple[ConstraintConfig, ...], BeforeValidator(_tuple)] = ()
    importance: ImportanceConfig | None = Field(
        None, description="weight for tokens that an inference engine drew; None = 1"
    )
    positive_nll: NonNegative = Field(
        0.0, description="weight of the mean negative log-likelihood of correct responses"
    )
    kl: KlConfig | None = Field(None, description="KL penalty to a reference model; None = off")
    entropy_bonus: NonNegative = Field(0.0, description="weight of the mean entropy, to raise it")
    mask_truncated: bool = Field(False, description="DAPO's overlong filtering")


class Adamw(Section):
    """AdamW."""

    kind: Literal["adamw"] = "adamw"


class Adamw8bit(Section):
    """AdamW with states in 8 bits, blockwise quantised: 2 bytes per weight (bitsandbytes)."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"


OptimizerConfig = Annotated[Adamw | Adamw8bit, Field(discriminator="kind"), BeforeValidator(_kind)]


class ConstantSchedule(Section):
    """Constant after the warm-up."""

    kind: Literal["constant"] = "constant"


class LinearSchedule(Section):
    """Down to 0 at the run's end."""

    kind: Literal["linear"] = "linear"


class CosineSchedule(Section):
    """Half a cosine down to 0 at the run's end."""

    kind: Literal["cosine"] = "cosine"
    num_cycles: Positive = Field(0.5, description="waves; 0.5 ends at 0")


class CosineMinSchedule(Section):
    """A cosine down to a share of the learning rate."""

    kind: Literal["cosine_with_min_lr"] = "cosine_with_min_lr"
    min_lr_rate: Fraction = Field(0.1, description="where it ends, as a share of learning_rate")


class PolynomialSchedule(Section):
    """A power of what is left of the run."""

    kind: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0
    lr_end: NonNegative = Field(1e-7, description="below learning_rate")


class InverseSqrtSchedule(Section):
    """1/√updates after the warm-up."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: Count | None = Field(None, description="None = the warm-up's length")


class StableDecaySchedule(Section):
    """Constant, then down over the last updates."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    num_decay_steps: Count = Field(description="updates at the end over which it falls")
    min_lr_ratio: Fraction = 0.0


ScheduleConfig = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineMinSchedule
    | PolynomialSchedule
    | InverseSqrtSchedule
    | StableDecaySchedule,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]


class TrainerConfig(Section):
    """The loop and the optimiser."""

    rollouts: Count = 100
    updates_per_rollout: Count = Field(8, description="mini-batches per epoch, K")
    epochs: Count = Field(1, description="passes over one rollout")
    learning_rate: Positive = 1e-6
    warmup_updates: CountOrZero = Field(10, description="linear warm-up, then `schedule`")
    schedule: ScheduleConfig = Field(
        ConstantSchedule(), description="one of transformers' schedules, over all updates planned"
    )
    optimizer: OptimizerConfig = Adamw()
    betas: Annotated[tuple[Fraction, Fraction], BeforeValidator(_tuple)] = (0.9, 0.999)
    weight_decay: NonNegative = 0.1
    grad_clip: Annotated[float, Field(gt=0)] = Field(
        1.0, description="largest gradient norm; inf = no clipping"
    )
    token_budget: Count = Field(
        16_384, description="largest micro-batch, in padded tokens; changes memory, not results"
    )
    seed: int = 0
    saved_samples: CountOrZero = Field(16, description="responses of each rollout kept for reading")


class EvalConfig(Section):
    """Held-out evaluation, before, during and after training."""

    every: CountOrZero = Field(0, description="in rollouts; 0 = only before and after")
    prompts: CountOrZero = Field(0, description="held-out prompts used; 0 = all")
    responses: Count = Field(4, description="responses per prompt, k of avg@k")
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Count | None = Field(None, description="None = the sampler's")


class CheckpointConfig(Section):
    """When to save what a run needs to go on, and how many of these folders to keep.

    There is always one after the last rollout.
    """

    every: CountOrZero = Field(0, description="in rollouts; 0 = only after the last")
    every_updates: CountOrZero = Field(
        0, description="in updates, within a rollout too; 0 = none. For rollouts that take hours"
    )
    keep_last: Count = Field(
        2, description="newest ones kept; a damaged one falls back to the one before"
    )
    keep_best: CountOrZero = Field(
        1,
        description="kept besides, by held-out avg@k; an evaluation in between that is the best so "
        "far is saved too",
    )


class LedgerConfig(Section):
    """What is kept of single tokens, for `erclip ledger` and the report's token view."""

    every: CountOrZero = Field(
        0, description="in updates; each k-th leaves a row per token in ledger/ (pyarrow); 0 = none"
    )


class TrackioTracker(Section):
    """trackio, local or in a Space on the hub."""

    kind: Literal["trackio"] = "trackio"
    project: str = "erclip"
    name: str | None = Field(None, description="None = the run folder's name")
    space_id: str | None = Field(None, description="owner/space; None = local files")


class WandbTracker(Section):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    project: str = "erclip"
    name: str | None = Field(None, description="None = the run folder's name")
    entity: str | None = None
    mode: Literal["online", "offline"] | None = Field(
        None, description="None = WANDB_MODE, else online"
    )


class TensorboardTracker(Section):
    """TensorBoard's event files."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: str | None = Field(None, description="None = tensorboard/ in the run folder")


class MlflowTracker(Section):
    """MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    experiment: str = "erclip"
    name: str | None = Field(None, description="None = the run folder's name")
    tracking_uri: str | None = Field(
        None, description="None = MLFLOW_TRACKING_URI, else mlflow.db in the run folder"
    )


TrackerConfig = Annotated[
    TrackioTracker | WandbTracker | TensorboardTracker | MlflowTracker,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]


class Config(Section):
    """One run. Every section has defaults; a recipe names what differs."""

    description: str = Field("", description="one line for `erclip recipes`")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampler: SamplerConfig = TransformersSampler()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = LossConfig()
    trainer: TrainerConfig = TrainerConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ledger: LedgerConfig = LedgerConfig()
    trackers: Annotated[tuple[TrackerConfig, ...], BeforeValidator(_tuple)] = Field(
        (), description='["wandb"], or tables: trackio, wandb, tensorboard, mlflow'
    )

    @model_validator(mode="after")
    def _settings_that_need_each_other(self) -> Config:
        if self.trainer.updates_per_rollout > self.rollout.prompts:
            raise ValueError(
                f"trainer.updates_per_rollout ({self.trainer.updates_per_rollout}) must not exceed "
                f"rollout.prompts ({self.rollout.prompts}): a mini-batch holds whole groups"
            )
        if self.reward.missing_think is not None and not self.data.after_think:
            raise ValueError("reward.missing_think has no effect unless data.after_think is true")
        if self.reward.correct == self.reward.wrong:
            raise ValueError(
                f"reward.correct and reward.wrong are both {self.reward.correct:g}: "
                "there is nothing to learn"
            )
        return self
