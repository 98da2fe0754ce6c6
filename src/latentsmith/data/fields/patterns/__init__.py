"""Which lattice points are known: one pattern a file."""

from latentsmith.data.fields.patterns.base import PATTERNS, Pattern, PatternConfig

__all__ = ["PATTERNS", "Pattern", "PatternConfig"]
