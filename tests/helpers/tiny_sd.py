"""Tiny, real Stable Diffusion pipelines, written by ``save_pretrained``: every code path of the
full-size ones without a network. Swapping in hub ids changes settings only."""

from pathlib import Path
from typing import Any, Literal

import torch

TinySD = Literal["sd15", "sd21", "sdxl"]

TEXT_WIDTH, SECOND_WIDTH = 24, 16
"""Width of the text model; SDXL's second is 16 wide and gives the pooled embedding."""
SECOND_PAD = "-"
"""What SDXL's second tokenizer pads with: as the published one's '!', no end of text."""
TEXT_LENGTH = 20
"""A token a letter: 'a photo of a cat' is 14, begin and end included."""
SIDE = 16
"""Latents are [4, 16, 16]; two halvings make the middle block 4 x 4."""

_SHARED: dict[str, Any] = {
    "sample_size": SIDE,
    "block_out_channels": [16, 32, 48],
    "layers_per_block": 1,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2],
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
}

UNETS: dict[TinySD, dict[str, Any]] = {
    "sd15": _SHARED,
    "sd21": _SHARED | {"attention_head_dim": [2, 4, 6], "use_linear_projection": True},
    "sdxl": _SHARED
    | {
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "block_out_channels": [8, 16, 32],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [1, 2, 4],
        "use_linear_projection": True,
        "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + SECOND_WIDTH,
    },
}
"""Entries of the U-Nets' configs: 0.5 to 1.1 M weights."""

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tiny_unet(kind: TinySD = "sd15", seed: int = 0) -> Any:
    """A U-Net with random weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel.from_config(UNETS[kind])
        return unet.eval()


def tiny_sd(folder: Path, kind: TinySD = "sd15", *, seed: int = 0) -> str:
    """Save a pipeline: U-Net, scheduler, autoencoder, CLIP text model and tokenizer, of ``sdxl``
    two of the latter.

    The scheduler's class and settings are those of the published pipelines: sd15 PNDM (noise),
    sd21 DDIM (v), sdxl Euler (noise).
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    folder = Path(folder)
    parts = {"unet": tiny_unet(kind, seed), "vae": _autoencoder(), "scheduler": _scheduler(kind)}
    parts |= {"text_encoder": _text_model(), "tokenizer": _tokenizer()}
    if kind == "sdxl":
        parts |= {"text_encoder": _text_model(layers=2), "text_encoder_2": _second_text_model()}
        parts["tokenizer_2"] = _tokenizer(pad_token=SECOND_PAD)
        StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(folder)
        return str(folder)
    pipeline = StableDiffusionPipeline(
        **parts,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return str(folder)


def condition_for(network: Any, count: int, *, length: int = TEXT_LENGTH, seed: int = 0) -> Any:
    """A random condition of ``count`` samples for an `SDUNet`."""
    rng = torch.Generator().manual_seed(seed)
    what = network.conditions
    condition = {"text": torch.randn(count, length, what.width, generator=rng)}
    if what.pooled is not None:
        condition["pooled"] = torch.randn(count, what.pooled, generator=rng)
        condition["time_ids"] = torch.tensor([[512, 512, 0, 8, 512, 512]]).expand(count, -1)
    return condition


def inputs_for(network: Any, count: int = 2, seed: int = 0) -> Any:
    """Random (z, t, condition) of ``count`` samples for an `SDUNet`."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(count, *network.latent_shape, generator=rng)
    return z, torch.rand(count, generator=rng), condition_for(network, count, seed=seed)


def set_random_null(network: Any, seed: int = 7) -> Any:
    """The network, told of an empty prompt."""
    what = network.conditions
    given = condition_for(network, 1, length=len(what.null_text), seed=seed)
    pooled = given["pooled"][0] if "pooled" in given else None
    what.set_null(given["text"][0], pooled)
    return network


def _scheduler(kind: TinySD) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    if kind == "sd15":
        return PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    if kind == "sd21":
        return DDIMScheduler(
            **BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        )
    return EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)


def _autoencoder() -> Any:
    """Side 32 → 16 latents of 4 channels, Stable Diffusion's scaling factor."""
    from latentsmith.autoencoders.kl import KLAutoencoderConfig

    model = (
        KLAutoencoderConfig(
            block_out_channels=[8, 8],
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            mid_block_add_attention=False,
        )
        .build()
        .model
    )
    assert model.config.scaling_factor == 0.18215
    return model.eval()


def _text_config(width: int, layers: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=SECOND_WIDTH,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=_vocabulary()["<|startoftext|>"],
        eos_token_id=_vocabulary()["<|endoftext|>"],
        pad_token_id=_vocabulary()["<|endoftext|>"],
    )


def _text_model(layers: int = 1) -> Any:
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPTextModel(_text_config(TEXT_WIDTH, layers)).eval()


def _second_text_model() -> Any:
    from transformers import CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return CLIPTextModelWithProjection(_text_config(SECOND_WIDTH, 2)).eval()


def _vocabulary() -> dict[str, int]:
    """CLIP's byte-level vocabulary without merges: each letter, also as the end of a word; end of
    text comes last, as its pooling assumes."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def _tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(
        vocab=_vocabulary(), merges=[], model_max_length=TEXT_LENGTH, pad_token=pad_token
    )
