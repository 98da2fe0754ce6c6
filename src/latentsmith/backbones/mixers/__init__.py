"""How the points of a set see each other: scans along space-filling curves, or attention."""

from latentsmith.backbones.mixers.base import MIXERS, Mixer, MixerConfig
from latentsmith.backbones.mixers.points import Points

__all__ = ["MIXERS", "Mixer", "MixerConfig", "Points"]
