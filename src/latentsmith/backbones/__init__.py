"""Networks that denoise latents."""
