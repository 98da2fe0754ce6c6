"""Samplers: each a plain function with its loop in plain sight, and its settings."""

from latentsmith.sampling.samplers.base import SAMPLERS, SamplerConfig

__all__ = ["SAMPLERS", "SamplerConfig"]
