"""Text to image, and images changed as told: a diffusers pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from latentsmith.export.shipped.latent_sampling import LatentSampling

logger = logging.get_logger(__name__)


class TextDiTPipeline(LatentSampling, DiffusionPipeline):
    """A diffusion transformer with its text encoder and autoencoder.

    Args:
        transformer: a `TextDiTModel`.
        autoencoder: ``AutoencoderKL``, or used as one.
        text_encoder, tokenizer: of transformers; ``last_hidden_state`` is what the network sees.
        scheduler: of a flow, or of a DDPM, as the network was trained on.
        resolution: side of images in pixels.
        text_length: tokens read of a text.
        text_padded: the network also sees what the text encoder makes of padding (CLIP), which then
            is not told where it is. Otherwise zeros stand there.
        edits: whether it was trained to change images.
    """

    model_cpu_offload_seq = "text_encoder->transformer->autoencoder"

    def __init__(
        self,
        transformer: Any,
        autoencoder: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        resolution: int = 256,
        text_length: int = 77,
        text_padded: bool = False,
        edits: bool = True,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            resolution=resolution, text_length=text_length, text_padded=text_padded, edits=edits
        )
        self.image_processor = VaeImageProcessor(do_normalize=False)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: Any = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Images of prompts; or, with ``image``, images changed as the prompts say.

        Args:
            prompt: one text, or one for each image that is made.
            image: to change: PIL images, or a tensor [N, C, H, W] in [0, 1] of the pipeline's size;
                as many as prompts, or either of them one.
            num_inference_steps: steps of the scheduler.
            guidance_scale: of the text; 1: none.
            image_guidance_scale: of the image; 1: none.
            num_images_per_prompt: how often each is made.
            generator: of the starting noise.
            latents: starting noise [N, C, h, w] instead, standard normal.
            output_type: pil, pt (tensors in [0, 1]), np, or latent (normalized latents).
            return_dict: False: a tuple.

        Raises:
            ValueError: images of another size or number, or for a network that edits none.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        source = None if image is None else self._source(image)
        count = max(len(prompts), 0 if source is None else len(source))
        if len(prompts) not in (1, count) or (source is not None and len(source) not in (1, count)):
            raise ValueError(f"{len(prompts)} prompts for {count} images: give one for each")
        text, mask = (_repeat(v, count, num_images_per_prompt) for v in self.encode_prompt(prompts))
        source = None if source is None else _repeat(source, count, num_images_per_prompt)
        weights, told = self._told(text, mask, source, guidance_scale, image_guidance_scale)

        z = self._start(len(text), latents, generator)
        bar: Any = self.progress_bar  # typed as if it were always a decorator
        for step in bar(self._steps(num_inference_steps)):
            seen = self._predict(z, step, weights, told)
            z = self.scheduler.step(seen, step, z, return_dict=False)[0]
        images: Any = z if output_type == "latent" else self._decode(z, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    # Texts ----------------------------------------------------------------------------------------

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts → what the network sees of them [N, L, E], and where there is a token, bool
        [N, L]."""
        length, padded = self.config["text_length"], self.config["text_padded"]
        batch = self.tokenizer(
            list(prompts),
            truncation=True,
            max_length=length,
            padding="max_length" if padded else True,
            return_tensors="pt",
        )
        cut = [p for p, e in zip(prompts, batch.encodings, strict=True) if e.overflowing]
        if cut:
            logger.warning(f"{len(cut)} prompts have more than {length} tokens and are cut: {cut}")
        ids, mask = (batch[n].to(self._execution_device) for n in ("input_ids", "attention_mask"))
        if padded:
            return self.text_encoder(input_ids=ids).last_hidden_state.float(), mask.bool()
        text = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        missing = length - mask.shape[1]
        text = F.pad(text * mask[..., None], (0, 0, 0, missing))
        return text, F.pad(mask, (0, missing)).bool()

    # Latents and images ---------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        config = self.transformer.config
        return config.channels, config.rows, config.columns

    @property
    def _coder(self) -> Any:
        return self.autoencoder

    def _source(self, image: Any) -> Tensor:
        """Images to change → their normalized latents [N, C, h, w]."""
        if not self.config["edits"]:
            raise ValueError("this pipeline was not trained to change images: give no image")
        pixels = self._pixels(image).to(self._execution_device, self.autoencoder.dtype)
        raw = self.autoencoder.encode(pixels * 2 - 1).latent_dist.mode().float()
        mean, std = self._scale
        return (raw - mean) / std

    def _pixels(self, image: Any) -> Tensor:
        """PIL images (resized to squares) or a tensor → [N, channels, side, side] in [0, 1]."""
        side, channels = self.config["resolution"], self.autoencoder.config.in_channels
        if not isinstance(image, Tensor):
            images = list(image) if isinstance(image, list | tuple) else [image]
            mode, size = "L" if channels == 1 else "RGB", (side, side)
            some = [i.convert(mode).resize(size, Image.Resampling.BICUBIC) for i in images]
            pixels = torch.stack([torch.from_numpy(np.array(i)) for i in some]).float() / 255
            return pixels.reshape(len(some), side, side, channels).permute(0, 3, 1, 2)
        if image.ndim != 4 or tuple(image.shape[1:]) != (channels, side, side):
            raise ValueError(
                f"images are {list(image.shape)}, and [N, {channels}, {side}, {side}] are needed"
            )
        if bool((image.min() < 0) | (image.max() > 1)):
            raise ValueError("images have values outside [0, 1]")
        return image

    # Sampling -------------------------------------------------------------------------------------

    def _told(
        self, text: Tensor, mask: Tensor, source: Tensor | None, of_text: float, of_image: float
    ) -> tuple[list[float], dict[str, Tensor]]:
        """Weights that sum to 1, and the conditions [k B, …] of the predictions they weigh: with
        text (and image), with the image alone, with neither. Without an image as Ho & Salimans
        2022, with one as Brooks et al. 2022, equation 3."""
        dtype, empty = self.transformer.dtype, self.transformer.conditions
        nothing = (
            empty.null_text.to(text).expand_as(text),
            empty.null_mask.to(mask).expand_as(mask),
        )
        if source is None:
            rows = [(of_text, (text, mask), 1.0), (1 - of_text, nothing, 1.0)]
        else:
            rows = [
                (of_text, (text, mask), 1.0),
                (of_image - of_text, nothing, 1.0),
                (1 - of_image, nothing, 0.0),
            ]
        rows = [row for row in rows if row[0] != 0]
        told = {
            "encoder_hidden_states": torch.cat([t for _, (t, _), _ in rows]).to(dtype),
            "encoder_attention_mask": torch.cat([m for _, (_, m), _ in rows]),
        }
        if source is not None:
            told["source"] = torch.cat([source * has for *_, has in rows]).to(dtype)
            has = torch.tensor([has > 0 for *_, has in rows], device=source.device)
            told["has_source"] = has.repeat_interleave(len(source))
        return [weight for weight, *_ in rows], told

    def _predict(
        self, z: Tensor, step: Tensor, weights: list[float], told: dict[str, Tensor]
    ) -> Tensor:
        """The guided prediction [B, C, h, w], float32."""
        many = torch.cat([z] * len(weights)).to(self.transformer.dtype)
        time = self._time(step).expand(len(many))
        seen = self.transformer(many, time, **told).float().chunk(len(weights))
        return sum((w * one for w, one in zip(weights, seen, strict=True)), torch.zeros_like(z))


def _repeat(value: Tensor, count: int, every: int) -> Tensor:
    """One row, or ``count``, to ``every`` times each of ``count`` [count every, …]."""
    value = value.expand(count, *value.shape[1:]) if len(value) == 1 else value
    return value.repeat_interleave(every, dim=0)
