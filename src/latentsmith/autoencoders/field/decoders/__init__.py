"""From latent tokens, or other points, to a value at any coordinate."""

from latentsmith.autoencoders.field.decoders.base import DECODERS, DecoderConfig, FieldDecoder

__all__ = ["DECODERS", "DecoderConfig", "FieldDecoder"]
