"""Frozen reference encoders. Each owns its preprocessing and states its token grid."""

from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "EncoderOutput"]
