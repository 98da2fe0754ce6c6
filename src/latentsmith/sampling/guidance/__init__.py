"""Guidance: a model and its condition become what a sampler asks."""

from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig

__all__ = ["GUIDANCE", "GuidanceConfig"]
