"""Tiny random models in the formats of the hub, for tests without a network."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

WEAK = 1e-3
"""Layer scale at which attention and MLP hardly move a token: it stays what its own patch made
it, and "the token that changes most" is exactly the patch that was lit."""


def tiny_dinov2(
    folder: Path, *, registers: int = 0, image_size: int = 28, patch: int = 14, scale: float = 1.0
) -> str:
    """Save a one-layer DINOv2 with hidden size 16 and layer scale ``scale``; with ``registers``
    the other model class."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": image_size,
        "patch_size": patch,
        "layerscale_value": scale,
        "initializer_range": 0.1,
    }
    if registers:
        config = Dinov2WithRegistersConfig(num_register_tokens=registers, **shape)
        model = Dinov2WithRegistersModel(config)
        torch.nn.init.normal_(model.embeddings.register_tokens)
    else:
        model = Dinov2Model(Dinov2Config(**shape))
    model.save_pretrained(folder)
    return str(folder)


def tiny_clip(folder: Path, *, projection: bool = True, image_size: int = 32) -> str:
    """Save a one-layer CLIP image tower: hidden size 16, projection to 8, patch 8."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=8,
    )
    model_class = CLIPVisionModelWithProjection if projection else CLIPVisionModel
    model_class(config).save_pretrained(folder)
    return str(folder)


def tiny_siglip(folder: Path, *, image_size: int = 32) -> str:
    """Save a one-layer SigLIP image tower: hidden size 16, patch 8."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=8,
    )
    SiglipVisionModel(config).save_pretrained(folder)
    return str(folder)


def tiny_tokenizer(folder: Path, *, begin: str | None, length: int) -> None:
    """Save a word tokenizer of a few dozen words beside a model: begin (if any), words, end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["a", "photo", "of", "the", "red", "green", "small", "large", "cat", "dog", "house"]
    vocab = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[BOS]", "[EOS]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{begin} $A [EOS]" if begin else "$A [EOS]",
        special_tokens=[("[BOS]", 2), ("[EOS]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=length,
    ).save_pretrained(folder)


def tiny_clip_text(folder: Path, *, projection: bool = True, length: int = 12) -> str:
    """Save a one-layer CLIP text tower (width 16, projection to 8) with a word tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    model_class = CLIPTextModelWithProjection if projection else CLIPTextModel
    model_class(config).save_pretrained(folder)
    tiny_tokenizer(folder, begin="[BOS]", length=length)
    return str(folder)


def tiny_sdxl_text(folder: Path, length: int = 12) -> str:
    """Save the text towers of an SDXL pipeline, as `tiny_clip_text`: sequence of 32, pooled 8."""
    for model, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        tiny_clip_text(folder / model, projection=model.endswith("2"), length=length)
        tiny_tokenizer(folder / tokenizer, begin="[BOS]", length=length)
    return str(folder)


def tiny_t5(folder: Path) -> str:
    """Save a one-layer T5 encoder of width 16 with a word tokenizer."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    T5EncoderModel(config).save_pretrained(folder)
    tiny_tokenizer(folder, begin=None, length=512)
    return str(folder)


def tiny_autoencoder(folder: Path, *, seed: int = 0, channels: int = 3) -> str:
    """Save a KL autoencoder of a few thousand weights: latents [2, side / 4, side / 4]."""
    from latentsmith.autoencoders.kl import KLAutoencoderConfig

    config = KLAutoencoderConfig(
        in_channels=channels,
        block_out_channels=[8, 8, 8],
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
        mid_block_add_attention=False,
        init_seed=seed,
    )
    config.build().model.save_pretrained(folder)
    return str(folder)


def tiny_semantic(folder: Path) -> Any:
    """An autoencoder around a DINOv2: latents [6, 3, 3] of 24 x 24 images, with measured scales."""
    from latentsmith.autoencoders.pixel_decoder import PixelDecoderConfig
    from latentsmith.autoencoders.projectors.mlp import MLPConfig
    from latentsmith.autoencoders.semantic import SemanticAutoencoderConfig
    from latentsmith.encoders.dinov2 import DinoV2Config

    built = SemanticAutoencoderConfig(
        encoder=DinoV2Config(source=tiny_dinov2(folder / "dino"), resolution=42),
        projector=MLPConfig(widths=(12, 10), blocks=1),
        latent_channels=6,
        decoder=PixelDecoderConfig(width=8, levels=[8, 8, 4], blocks=1, groups=4),
    ).build()
    images = torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    built.measure_features([images])
    built.measure_normalizer([images])
    return built.eval()


@cache
def random_inception(seed: int = 0) -> Any:
    """The Inception network (full size: the layout is fixed) with weights at which differences
    between images survive to the last layer. Made once: do not change it."""
    from latentsmith.encoders.inception import InceptionV3

    torch.manual_seed(seed)
    with torch.device("meta"):
        net = InceptionV3()
    net.to_empty(device="cpu").eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan = module.weight[0].numel()
            # uniform: drawn three times as fast as normal numbers
            torch.nn.init.uniform_(module.weight, -((6 / fan) ** 0.5), (6 / fan) ** 0.5)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
    torch.nn.init.zeros_(net.fc.weight)
    torch.nn.init.zeros_(net.fc.bias)
    return net


def tiny_generator(folder: Path, *, channels: int = 3) -> str:
    """Save an autoencoder and a SiT on its latents [2, 4, 4] of 16 x 16 images, with weights whose
    output is not the 0 of its start; gives the generator's folder."""
    from latentsmith.autoencoders.kl import KLAutoencoderConfig
    from latentsmith.backbones.dit import SiTConfig
    from latentsmith.diffusion.flow import LinearPathConfig
    from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
    from latentsmith.sampling.pairing import Pairing, normalizer_digest

    source = tiny_autoencoder(folder / "raw", channels=channels)
    autoencoder = KLAutoencoderConfig(source=source).build()
    noise = torch.Generator().manual_seed(1)
    normalizer = autoencoder.measure_normalizer([torch.rand(16, channels, 16, 16, generator=noise)])
    autoencoder.save_pretrained(folder / "autoencoder")
    backbone = SiTConfig(size=None, width=8, depth=3, heads=2, patch=1).build((2, 4, 4), 3)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn(p.shape, generator=noise) * 0.2)
    pairing = Pairing(
        autoencoder.encoder_digest(),
        autoencoder.digest(),
        normalizer_digest(normalizer),
        latents="store",
    )
    where, classes = str(folder / "autoencoder"), ["a", "b", "c"]
    info = GeneratorInfo(LinearPathConfig(), pairing, where, classes, {"samples": 1})
    generator = LatentGenerator(backbone, info, normalizer, autoencoder)
    return str(generator.save(folder / "generator"))


def tiny_whole_clip(folder: Path) -> Any:
    """Save a CLIP of both towers (width 16, projection to 8) with a word tokenizer; the model."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    shape = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = shape | ends | {"vocab_size": 32, "max_position_embeddings": 12}
    vision = shape | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(folder)
    tiny_tokenizer(folder, begin="[BOS]", length=12)
    return model
