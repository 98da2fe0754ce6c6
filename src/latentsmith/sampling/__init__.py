"""From noise to latents: samplers as functions, guidance objects, the saved generator."""
