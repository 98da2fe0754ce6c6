"""Losses on how predicted latents are distributed: moments, sliced W2, MMD, a diffusion prior."""
