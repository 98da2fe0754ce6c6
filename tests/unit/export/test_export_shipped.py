"""Networks that exports ship give the library's numbers, for every setting that matters: run from
the text that is written, as a reader of the export runs it."""

from dataclasses import fields, replace
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch

from helpers.tiny_models import tiny_clip, tiny_dinov2, tiny_siglip
from helpers.tiny_text_generator import lively
from latentsmith.autoencoders.pixel_decoder import PixelDecoderConfig
from latentsmith.autoencoders.projectors import PROJECTORS
from latentsmith.autoencoders.projectors.identity import IdentityConfig
from latentsmith.autoencoders.projectors.mlp import MLPConfig
from latentsmith.autoencoders.projectors.transformer import TransformerProjectorConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoderConfig
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.encoders.clip import ClipConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config
from latentsmith.encoders.siglip import SiglipConfig
from latentsmith.errors import UserError
from latentsmith.export.inline import standalone
from latentsmith.export.pipeline import TAKEN, transformer_settings
from latentsmith.export.semantic import PROJECTORS as SHIPPED_PROJECTORS
from latentsmith.export.semantic import check_semantic, semantic_settings

SAME = {"rtol": 1e-5, "atol": 1e-5}


@cache
def shipped(name: str) -> ModuleType:
    """The module as it is written into an export."""
    module = ModuleType(name)
    text = standalone(f"latentsmith.export.shipped.{name}")
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    return module


# Transformer --------------------------------------------------------------------------------------

TINY = {"size": None, "width": 16, "depth": 2, "heads": 2, "text_width": 10, "text_length": 5}
SETTINGS = [
    *({"position": p} for p in ("sincos", "learned", "rope", "both")),
    {"patch": 2},
    {"patch": 2, "position": "both"},
    {"qk_norm": True},
    {"qk_norm": True, "norm": "rms"},
    {"norm": "rms"},
    {"mlp": "swiglu"},
    {"mlp": "swiglu", "mlp_ratio": 2.5},
    {"time_scale": 1.0, "time_shift": 0.5, "time_spacing": 1},
    {"size": "S", "width": 12, "depth": 1, "heads": 3},
]


def inputs(network, seed=3):
    """z, t, and a condition with masks and sources that two of three samples have."""
    rng = torch.Generator().manual_seed(seed)
    z, source = (torch.randn(3, *network.latent_shape, generator=rng) for _ in range(2))
    text = torch.randn(3, 5, network.config.text_width, generator=rng)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    has = torch.tensor([True, False, True])
    condition = {"text": text, "mask": mask, "source": source, "has_source": has}
    return z, torch.tensor([0.01, 0.5, 1.0]), condition


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_the_transformer_is_the_library_s(settings):
    network = lively(TextDiTConfig(**(TINY | settings)).build((3, 4, 6))).eval()
    model = shipped("modeling_text_dit").TextDiTModel(**transformer_settings(network)).eval()
    model.load_state_dict(network.state_dict())
    z, t, c = inputs(network)
    for names in (("text",), ("text", "mask"), ("text", "source"), tuple(c)):
        some = {name: c[name] for name in names}
        told = {"encoder_hidden_states": c["text"], "encoder_attention_mask": some.get("mask")}
        told |= {name: some.get(name) for name in ("source", "has_source")}
        got, want = model(z, t, **told), network(z, t, some).sample
        assert want.std() > 0.1
        torch.testing.assert_close(got, want, **SAME)


def test_no_setting_of_the_transformer_is_left_out():
    """One that is added later has to be shipped too, or named here with a reason."""
    size = {"size", "width", "depth", "heads"}
    of_trainings = {"kind", "init_seed", "gradient_checkpointing"}
    known = {f.name for f in fields(TextDiTConfig)}
    assert known == size | of_trainings | set(TAKEN)


@torch.no_grad()
def test_half_precision_keeps_exact_positions_and_times(tmp_path):
    """diffusers builds a network with the wanted dtype as torch's default."""
    network = lively(TextDiTConfig(**TINY, position="both").build((3, 4, 6)))
    cls = shipped("modeling_text_dit").TextDiTModel
    model = cls(**transformer_settings(network))
    model.load_state_dict(network.state_dict())
    model.save_pretrained(tmp_path)
    half = cls.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.patches.weight.dtype == torch.bfloat16
    for name in ("positions", "rope", "time.frequencies"):
        values = half.get_submodule(name).values
        assert values.dtype == torch.float32
        assert torch.equal(values, network.get_submodule(name).values)


# Autoencoder --------------------------------------------------------------------------------------

DECODER = PixelDecoderConfig(width=8, levels=[8, 4], blocks=1, groups=4)
SMALL = {
    "mlp": MLPConfig(widths=(12, 10), blocks=1),
    "transformer": TransformerProjectorConfig(width=16, heads=2, depth=2),
    "identity": IdentityConfig(),
}
ENCODERS = {
    "dinov2": lambda d: DinoV2Config(source=tiny_dinov2(d), resolution=42),
    "registers": lambda d: DinoV2Config(source=tiny_dinov2(d, registers=3), resolution=42),
    "clip": lambda d: ClipConfig(source=tiny_clip(d)),
    "clip bare": lambda d: ClipConfig(source=tiny_clip(d, projection=False), projection=False),
    "clip larger": lambda d: ClipConfig(source=tiny_clip(d), resolution=48),
    "siglip": lambda d: SiglipConfig(source=tiny_siglip(d)),
    "siglip larger": lambda d: SiglipConfig(source=tiny_siglip(d), resolution=48),
    "efficientnet_lite0": lambda d: EfficientNetLite0Config(resolution=75),  # odd sides to pad
    "efficientnet_lite0 16": lambda d: EfficientNetLite0Config(resolution=75, stride=16),
    "efficientnet_lite0 8": lambda d: EfficientNetLite0Config(resolution=75, stride=8),
}


def autoencoder(encoder, kind, **settings):
    """With weights that no module started with, and measured scales."""
    latent = None if kind == "identity" else 6
    given = {"projector": SMALL[kind], "latent_channels": latent, "decoder": DECODER}
    built = SemanticAutoencoderConfig(encoder=encoder, **(given | settings)).build()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in (built.projector, built.reader, built.pixels):
            for p in part.parameters():
                p.add_(torch.randn(p.shape, generator=rng) * 0.1)
    side = built.grid[0] * built.factor
    images = torch.rand(6, built.channels, side, side, generator=rng)
    built.measure_features([images])
    built.measure_normalizer([images])
    return built.eval(), images


def check(built, images):
    """The shipped class says the same in both directions."""
    settings = semantic_settings(built)
    model = shipped("modeling_semantic").SemanticAutoencoderModel(**settings).eval()
    model.load_state_dict(built.state_dict())
    with torch.no_grad():
        got, want = model.encode(2 * images - 1).latent_dist, built.encode(images)
        assert want.mean.std() > 0.01
        # images were halved and doubled on the way: the last digit of a pixel
        near = {"rtol": 1e-4, "atol": 1e-4 * float(want.mean.std())}
        torch.testing.assert_close(got.mode(), want.mode(), **near)
        torch.testing.assert_close(got.logvar, want.logvar, **SAME | {"atol": 1e-4})
        z = want.mode()
        torch.testing.assert_close((model.decode(z).sample + 1) / 2, built.decode(z), **SAME)
        torch.testing.assert_close(model.decode_features(z), built.decode_features(z), **SAME)
        normal = built.require_normalizer().normalize(z).float()
        mean, std = (
            torch.tensor(settings[n])[:, None, None] for n in ("latents_mean", "latents_std")
        )
        torch.testing.assert_close(normal * std / settings["scaling_factor"] + mean, z, **SAME)


def test_a_decoder_of_patches_is_the_library_s(tmp_path):
    patches = replace(DECODER, patch=2)
    check(*autoencoder(ENCODERS["dinov2"](tmp_path), "transformer", decoder=patches))


@pytest.mark.parametrize("projector", PROJECTORS.names())
def test_every_projector_is_the_library_s(projector, tmp_path):
    assert projector in SHIPPED_PROJECTORS
    check(*autoencoder(ENCODERS["dinov2"](tmp_path), projector))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_vision_encoder_is_the_library_s(encoder, tmp_path):
    check(*autoencoder(ENCODERS[encoder](tmp_path), "mlp"))


def test_gray_images_and_a_projector_as_wide_as_the_features(tmp_path):
    wide = TransformerProjectorConfig(heads=4, depth=1)
    given = ENCODERS["dinov2"](tmp_path)
    check(*autoencoder(given, "transformer", channels=1, projector=wide))


def test_samples_of_the_posterior_spread_as_it_says(tmp_path):
    built, images = autoencoder(ENCODERS["dinov2"](tmp_path), "mlp")
    model = shipped("modeling_semantic").SemanticAutoencoderModel(**semantic_settings(built))
    model.load_state_dict(built.state_dict())
    with torch.no_grad():
        seen = model.encode(2 * images - 1).latent_dist
    seen.logvar = torch.full_like(seen.mean, 2.0)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([seen.sample(rng) - seen.mean for _ in range(200)])
    assert abs(float(drawn.std()) - 2.718281828) < 0.03


@pytest.mark.parametrize("what", ["encoder", "projector"])
def test_what_is_not_shipped_is_refused_by_its_setting(what):
    kinds = {"encoder": "dinov2", "projector": "mlp"} | {what: "new"}
    config = SimpleNamespace(**{k: SimpleNamespace(kind=v) for k, v in kinds.items()})
    stranger = SimpleNamespace(config=config)
    with pytest.raises(UserError, match=rf"autoencoder.{what}=new cannot be exported .*known are"):
        check_semantic(stranger)
