"""Prompt → Response: who samples, behind one protocol."""

from erclip.training.sampling.base import Sampler, SamplingSettings, encode_prompt
from erclip.training.sampling.transformers import TransformersSampler

__all__ = ["Sampler", "SamplingSettings", "TransformersSampler", "encode_prompt"]
