"""Frozen text encoders."""

from latentsmith.encoders.text.base import (
    TEXT_ENCODERS,
    TextEncoder,
    TextEncoderConfig,
    TextOutput,
)

__all__ = ["TEXT_ENCODERS", "TextEncoder", "TextEncoderConfig", "TextOutput"]
