"""Cycle losses between text and a latent: text → latent → text, latent → text → latent."""
