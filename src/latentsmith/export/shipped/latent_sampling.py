"""What pipelines over latents share: the start, the scheduler's steps, the decoder."""

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latentsmith.diffusion.vp import VPPathConfig

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""diffusers' ``beta_schedule`` → ours."""


class LatentSampling:
    """Part of a pipeline with a ``scheduler``, an ``image_processor``, a ``latent_shape`` and an
    autoencoder, ``_coder``."""

    scheduler: Any
    image_processor: Any
    latent_shape: tuple[int, int, int]
    _coder: Any
    _execution_device: Any

    @property
    def _scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of raw latents, [C, 1, 1]."""
        config, device = self._coder.config, self._execution_device
        mean = torch.tensor(config.latents_mean, device=device)
        std = torch.tensor(config.latents_std, device=device) / config.scaling_factor
        return mean[:, None, None], std[:, None, None]

    def _start(self, total: int, latents: Tensor | None, generator: Any) -> Tensor:
        """Where sampling starts, float32 [total, C, h, w]."""
        shape, device = (total, *self.latent_shape), self._execution_device
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents are {list(latents.shape)}, and {list(shape)} are needed")
        # flow schedulers have no such factor
        return latents.to(device, torch.float32) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    @property
    def _flows(self) -> bool:
        """Whether the scheduler is a flow's: noise shares instead of trained steps."""
        return not hasattr(self.scheduler, "alphas_cumprod")

    def _steps(self, count: int) -> Tensor:
        """What the scheduler calls its steps, from noise to data."""
        if self._flows:  # evenly from noise to data; by itself it stops one trained step before
            even = [1 - k / count for k in range(count)]
            self.scheduler.set_timesteps(sigmas=even, device=self._execution_device)
        else:
            self._make_exact()
            self.scheduler.set_timesteps(count, device=self._execution_device)
        return self.scheduler.timesteps

    def _make_exact(self) -> None:
        """Give the scheduler its schedule in float64. It makes it in float32, where 1 - ᾱ of a
        cosine's first steps, 4e-5, has three digits left."""
        config, known = self.scheduler.config, self.scheduler.alphas_cumprod
        schedule = SCHEDULES.get(config.beta_schedule)
        if known.dtype == torch.float64 or (config.trained_betas is None and schedule is None):
            return
        path: Any = VPPathConfig(
            schedule=schedule or "linear",  # pyright: ignore[reportArgumentType]
            timesteps=len(known),
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
            trained_betas=config.trained_betas,
        )
        exact = path.alphas_cumprod().to(known.device)
        if torch.allclose(exact, known.double(), rtol=1e-3, atol=1e-5):  # another's: left alone
            self.scheduler.alphas_cumprod = exact
            if hasattr(self.scheduler, "final_alpha_cumprod") and not config.set_alpha_to_one:
                self.scheduler.final_alpha_cumprod = exact[0]

    def _time(self, step: Tensor) -> Tensor:
        """A scheduler's step → the network's time, from 0, data, to 1, noise."""
        trained = self.scheduler.config.num_train_timesteps
        exact = step.double() if step.device.type != "mps" else step
        return ((exact + (0 if self._flows else 1)) / trained).float()

    def _decode(self, z: Tensor, output_type: str) -> Any:
        """Normalized latents → images."""
        mean, std = self._scale
        images = self._coder.decode((z * std + mean).to(self._coder.dtype)).sample
        images = ((images.float() + 1) / 2).clamp(0, 1)
        return self.image_processor.postprocess(images, output_type=output_type)
