"""Diffusion and flow in latent space: paths, parametrizations, time sampling, the training task."""
