"""Sparse signals as latents: a set of points in, a value at any coordinate out."""

from latentsmith.autoencoders.field.model import FieldAutoencoder, FieldAutoencoderConfig

__all__ = ["FieldAutoencoder", "FieldAutoencoderConfig"]
