"""Things that make latents and decode them."""
