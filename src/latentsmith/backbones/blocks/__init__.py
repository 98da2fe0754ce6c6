"""Parts that denoising transformers share: attention, MLPs, norms, embedders, modulation."""
