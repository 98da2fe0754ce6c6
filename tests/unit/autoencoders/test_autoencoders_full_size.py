"""Stable Diffusion's autoencoder at full size on a CPU."""

import pytest
import torch

from latentsmith.autoencoders.kl import KLAutoencoderConfig

SD_VAE_PARAMETERS = 83_653_863


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 2.4 to 13 minutes were seen on one thread of a busy machine
def test_one_real_training_step_at_256():
    autoencoder = KLAutoencoderConfig(gradient_checkpointing=True).build().train()
    assert sum(p.numel() for p in autoencoder.parameters()) == SD_VAE_PARAMETERS
    assert autoencoder.latent_shape(256) == (4, 32, 32)
    params = autoencoder.trainable_parameters("both")
    optimizer = torch.optim.AdamW(params, lr=1e-5)
    before = autoencoder.digest()
    images = torch.rand(1, 3, 256, 256)

    def loss() -> torch.Tensor:
        posterior = autoencoder.encode(images)
        assert posterior.mean.shape == (1, 4, 32, 32)
        recon = autoencoder.decode(posterior.mode())
        return (recon - images).abs().mean() + 1e-6 * posterior.kl("sum")

    first = loss()
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in params)
    optimizer.step()
    assert autoencoder.digest() != before
    with torch.no_grad():
        assert loss() < first
