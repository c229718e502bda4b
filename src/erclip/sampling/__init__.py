"""Prompt → Response: who samples, behind one protocol."""

from erclip.sampling.base import Sampler, SamplingSettings, encode_prompt
from erclip.sampling.transformers import TransformersSampler

__all__ = ["Sampler", "SamplingSettings", "TransformersSampler", "encode_prompt"]
