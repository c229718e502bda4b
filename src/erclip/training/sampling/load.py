"""The sampler that a recipe names."""

from __future__ import annotations

from erclip.config import Config
from erclip.config.sampling import TransformersSampler as TransformersSettings
from erclip.config.sampling import VllmSampler as VllmSettings
from erclip.errors import UserError
from erclip.machine.distributed import World
from erclip.runs.work import Work
from erclip.training.policy import Policy
from erclip.training.policy.loading import model_folder
from erclip.training.sampling.base import Sampler
from erclip.training.sampling.transformers import TransformersSampler
from erclip.training.updates import build_loss


def load_sampler(
    config: Config, policy: Policy, world: World | None = None, work: Work | None = None
) -> Sampler:
    """A sampler of `policy`; an engine or a server follows it at every `update_weights`."""
    settings = config.sampler
    if isinstance(settings, TransformersSettings):
        if settings.dtype != "model" and world is not None and world.size > 1:
            raise UserError(
                f"sampler.dtype = {settings.dtype!r} rounds whole weights, which "
                f"{world.size} processes have in parts; train with one process or leave it out."
            )
        return TransformersSampler(
            policy.model,
            policy.tokenizer,
            settings.batch_size,
            settings.dtype,
            work=work or Work(),
        )
    if isinstance(settings, VllmSettings):
        from erclip.training.sampling.vllm_engine import VllmEngine

        folder, trust = model_folder(config.model.path), config.model.trust_remote_code
        return VllmEngine(settings, policy, folder, trust=trust, top=build_loss(config.loss).top)
    from erclip.training.sampling.vllm_server import VllmServer

    return VllmServer(settings, policy, world or World())
