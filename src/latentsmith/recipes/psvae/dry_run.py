"""What a run would be, found out without weights, data or training: on the meta device."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.autoencoders.semantic_task import SemanticObjectiveConfig
from latentsmith.backbones.text_dit import TextDiT
from latentsmith.config.run import Run
from latentsmith.encoders.base import Encoder
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.errors import UserError
from latentsmith.recipes.psvae.config import PSVAEConfig
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.layout import row_bytes
from latentsmith.training.config import TrainConfig
from latentsmith.training.plan import length

DINOV2_L: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
    "patch_size": 14,
}
"""Shape assumed where the encoder's weights are not at hand."""
T5_XXL = 4096
"""Width of token embeddings assumed where the text encoder is not at hand."""


def dry_run(cfg: PSVAEConfig, run: Run) -> None:
    """Print the plan: shapes, parameters, FLOPs of each stage, sizes of caches, GPU days.

    Raises:
        UserError: resolution, grid and pixel decoder do not fit each other.
    """
    autoencoder, assumed = _autoencoder(cfg)
    shape = autoencoder.latent_shape(cfg.transform.resolution)
    network, told = _network(cfg, shape)
    encoder, projector, reader, pixels = (
        _count(part)
        for part in (
            autoencoder.encoder, autoencoder.projector, autoencoder.reader, autoencoder.pixels,
        )
    )  # fmt: skip
    print(f"data           {cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²")
    print(f"encoder        {cfg.autoencoder.encoder.kind}{assumed}, {encoder:,} parameters")
    print(f"projector      {cfg.autoencoder.projector.kind}, {projector:,}; back {reader:,}")
    print(f"pixel decoder  {pixels:,} parameters; latents {'x'.join(map(str, shape))}")
    print(f"transformer    {_count(network):,} parameters{told}")
    image = torch.empty(1, cfg.transform.channels, *[cfg.transform.resolution] * 2, device="meta")
    costs = {
        "svae": _autoencoder_flops(autoencoder, image, cfg.svae.objective),
        "pixel": _autoencoder_flops(autoencoder, image, cfg.pixel.objective),
        "dit": _transformer_flops(network, shape),
    }
    trains = {"svae": cfg.svae.train, "pixel": cfg.pixel.train, "dit": cfg.train}
    for name, flops in costs.items():
        print(f"{name:14} {flops / 1e9:,.1f} GFLOP a sample; {length(trains[name])}")
    _days(costs, trains)
    _memory(cfg, network, encoder + projector + reader + pixels)
    _store(cfg, shape, network)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _autoencoder(cfg: PSVAEConfig) -> tuple[SemanticAutoencoder, str]:
    """On meta, and what of it is assumed ("" when nothing)."""
    config = cfg.autoencoder
    with torch.device("meta"):
        encoder, assumed = _encoder(config.encoder)
        return SemanticAutoencoder(config, encoder), assumed


def _encoder(config: Any) -> tuple[Encoder, str]:
    try:
        with torch.device("cpu"):
            found = config.build()
        return found.to("meta"), ""
    except UserError:
        guess = replace(config) if isinstance(config, DinoV2Config) else DinoV2Config()
        text = " (not at hand here; DINOv2-L's shape assumed)"
        return guess.empty(DINOV2_L), text


def _network(cfg: PSVAEConfig, shape: tuple[int, int, int]) -> tuple[TextDiT, str]:
    """The transformer on meta, told texts of the encoder's width."""
    try:
        width, assumed = cfg.text_encoder.build().width, ""
    except UserError:
        width, assumed = T5_XXL, " (text encoder not at hand; T5-XXL's width assumed)"
    length = getattr(cfg.text_encoder, "length", None) or cfg.backbone.text_length
    with torch.device("meta"):
        config = replace(cfg.backbone, text_width=width, text_length=length)
        return config.build(shape), assumed


def _autoencoder_flops(
    autoencoder: SemanticAutoencoder, image: torch.Tensor, objective: SemanticObjectiveConfig
) -> float:
    """Forward and backward of one image. An encoder that trains costs three more of its forward
    passes: two for the backward (as a rule; the counter takes grouped convolutions for dense ones
    there) and one for the target."""
    from torch.utils.flop_counter import FlopCounterMode

    autoencoder.requires_grad_(True)
    autoencoder.encoder.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        autoencoder.encoder(image)
    encoder = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        posterior = autoencoder.encode(image)
        total = autoencoder.decode_features(posterior.mean).sum()
        if objective.has_pixels:
            z = posterior.mean.detach() if objective.detach else posterior.mean
            total = total + autoencoder.decode(z).sum()
        total.backward()
    return counter.get_total_flops() + (3 * encoder if objective.encoder_lr > 0 else 0)


def _transformer_flops(network: TextDiT, shape: tuple[int, int, int]) -> float:
    """Forward and backward of one sample with a source: edits are twice the tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    z, t = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    condition = {
        "text": torch.empty(1, network.config.text_length, network.config.text_width),
        "source": torch.empty(1, *shape),
        "has_source": torch.ones(1, dtype=torch.bool),
    }
    with FlopCounterMode(display=False) as counter:
        given = {name: value.to("meta") for name, value in condition.items()}
        network(z, t, given).sample.sum().backward()
    return counter.get_total_flops()


H100, SHARE = 790e12, 0.4
"""Dense bfloat16 FLOP/s of an H100, and the share of it that a well-run training reaches."""


def _days(costs: dict[str, float], trains: dict[str, TrainConfig]) -> None:
    total = sum(costs[name] * trains[name].samples for name in costs)
    days = total / (H100 * SHARE) / 86_400
    print(
        f"all stages     {total:.2e} FLOP: {days:,.2f} days of one H100 at {SHARE:.0%} of its "
        f"bfloat16 peak, {days / 8:,.2f} of eight"
    )


def _memory(cfg: PSVAEConfig, network: nn.Module, autoencoder: int) -> None:
    """Weights, gradients, two moments, and the moving average where there is one; float32."""
    for name, count, train in (
        ("autoencoder", autoencoder, cfg.pixel.train),
        ("transformer", _count(network), cfg.train),
    ):
        copies = 5 if train.ema else 4
        print(f"state of {name:11} {4 * copies * count / 2**30:,.2f} GiB, without activations")


def _store(cfg: PSVAEConfig, shape: tuple[int, int, int], network: TextDiT) -> None:
    """Bytes of the caches, a sample and in all."""
    latents = row_bytes(FieldSpec(shape, "float16"))
    latents *= 1 if cfg.diffusion.latent == "mode" else 2
    text = row_bytes(FieldSpec((network.config.text_length, network.config.text_width), "float16"))
    count = getattr(cfg.data, "train_count", None)
    for name, size in (("latents", latents), ("texts", text)):
        total = f", {size * count / 1e9:,.1f} GB for {count:,}" if count else ""
        print(f"cached {name:7} {size / 1024:,.1f} KiB a sample{total}")
