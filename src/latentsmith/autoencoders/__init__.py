"""What makes latents and decodes them."""
