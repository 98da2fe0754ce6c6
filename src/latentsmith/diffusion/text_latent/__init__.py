"""Diffusion of text and a latent together: settings, modes, the model, the training task."""
