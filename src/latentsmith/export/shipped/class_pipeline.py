"""Images of classes, or of nothing in particular: a diffusers pipeline."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from latentsmith.export.shipped.latent_sampling import LatentSampling


class ClassPipeline(LatentSampling, DiffusionPipeline):
    """A denoising network with its autoencoder.

    Args:
        backbone: a `LatentsmithBackbone`.
        vae: ``AutoencoderKL``, or used as one.
        scheduler: of a flow, or of a DDPM, as the network was trained on.
        classes: their names; None: it is told of none.
    """

    model_cpu_offload_seq = "backbone->vae"

    def __init__(self, backbone: Any, vae: Any, scheduler: Any, classes: list[str] | None = None):
        super().__init__()
        self.register_modules(backbone=backbone, vae=vae, scheduler=scheduler)
        self.register_to_config(classes=classes)
        self.image_processor = VaeImageProcessor(do_normalize=False)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Images.

        Args:
            class_labels: one for each image, numbers or names; None where there are no classes.
            num_inference_steps: steps of the scheduler.
            guidance_scale: away from "no class"; 1: none.
            num_images_per_prompt: how often each is made.
            generator: of the starting noise.
            latents: starting noise [N, C, h, w] instead, standard normal.
            output_type: pil, pt (tensors in [0, 1]), np, or latent (normalized latents).
            return_dict: False: a tuple.

        Raises:
            ValueError: classes it does not know, or guidance without any.
        """
        labels = self._labels(class_labels)
        if labels is None and guidance_scale != 1:
            raise ValueError("this network was trained without classes: it cannot be guided")
        given = 1 if labels is None else len(labels)
        labels = None if labels is None else labels.repeat_interleave(num_images_per_prompt)
        z = self._start(given * num_images_per_prompt, latents, generator)
        bar: Any = self.progress_bar  # typed as if it were always a decorator
        for step in bar(self._steps(num_inference_steps)):
            seen = self._predict(z, step, labels, guidance_scale)
            z = self.scheduler.step(seen, step, z, return_dict=False)[0]
        images: Any = z if output_type == "latent" else self._decode(z, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        channels, rows, columns = self.backbone.config.latent_shape
        return channels, rows, columns

    @property
    def _coder(self) -> Any:
        return self.vae

    def _labels(self, given: Any) -> Tensor | None:
        """Numbers of classes, int64 [N]."""
        names = self.config["classes"]
        if names is None:
            if given is not None:
                raise ValueError("this network was trained without classes: give no labels")
            return None
        if given is None:
            raise ValueError(f"which classes? Give class_labels: {', '.join(names)}")
        numbers = []
        for one in [given] if isinstance(given, int | str) else given:
            if one not in names and not (isinstance(one, int) and 0 <= one < len(names)):
                raise ValueError(f"no class {one!r}: known are 0 to {len(names) - 1}, {names}")
            numbers.append(names.index(one) if one in names else one)
        return torch.tensor(numbers, device=self._execution_device)

    def _predict(self, z: Tensor, step: Tensor, labels: Tensor | None, scale: float) -> Tensor:
        """The guided prediction [B, C, h, w], float32."""
        time = self._time(step)
        if labels is None or scale == 1:
            return self._look(z, time, labels)
        nothing = torch.full_like(labels, len(self.config["classes"]))
        many = torch.cat([labels, nothing])
        seen, free = self._look(torch.cat([z, z]), time, many).chunk(2)
        return free + scale * (seen - free)

    def _look(self, z: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        return self.backbone(z.to(self.backbone.dtype), time.expand(len(z)), labels).float()
