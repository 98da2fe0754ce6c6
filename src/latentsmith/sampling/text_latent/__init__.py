"""Samplers over text and a latent: text from a latent, a latent from text, both from noise."""
