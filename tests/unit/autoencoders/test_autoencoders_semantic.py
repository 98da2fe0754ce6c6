"""The autoencoder around a vision encoder: shapes, normalizations, what is frozen, files."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.tiny_models import tiny_clip, tiny_dinov2, tiny_siglip
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.autoencoders.pixel_decoder import PixelDecoderConfig
from latentsmith.autoencoders.projectors import PROJECTORS
from latentsmith.autoencoders.projectors.base import LOGVAR
from latentsmith.autoencoders.projectors.identity import IdentityConfig
from latentsmith.autoencoders.projectors.mlp import MLPConfig, ResidualBlock
from latentsmith.autoencoders.projectors.transformer import TransformerProjectorConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoderConfig
from latentsmith.autoencoders.semantic_task import SemanticObjectiveConfig, SemanticTask
from latentsmith.encoders.clip import ClipConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config
from latentsmith.encoders.siglip import SiglipConfig
from latentsmith.errors import UserError
from latentsmith.training.config import TrainConfig
from latentsmith.training.optim import adamw, set_lr
from latentsmith.training.task import StepContext

DECODER = PixelDecoderConfig(width=8, levels=[8, 8, 4], blocks=1, groups=4)
SMALL = {
    "mlp": MLPConfig(widths=(12, 10)),
    "transformer": TransformerProjectorConfig(width=16, heads=2, depth=1),
    "identity": IdentityConfig(),
}


def config(folder, projector="transformer", **settings) -> SemanticAutoencoderConfig:
    """Around a DINOv2 of width 16 that sees 42 pixels: a grid of 3 x 3, images of 24."""
    if "encoder" not in settings:
        source = tiny_dinov2(folder / "dino")
        settings["encoder"] = DinoV2Config(source=source, resolution=42)
    latent = None if projector == "identity" else 6
    known = {"projector": SMALL[projector], "latent_channels": latent, "decoder": DECODER}
    return SemanticAutoencoderConfig(**(known | settings))


@pytest.fixture
def images():
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def step(seen=0):
    return StepContext(seen, 100, 0)


def batch(images):
    return {"image": images, "index": torch.arange(len(images))}


# Shapes and counts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROJECTORS.names())
def test_every_projector_goes_there_and_back(name, tmp_path, images):
    autoencoder = config(tmp_path, name).build()
    posterior = autoencoder.encode(images)
    channels = autoencoder.latent_channels
    assert posterior.mean.shape == posterior.logvar.shape == (4, channels, 3, 3)
    assert channels == (16 if name == "identity" else 6)
    assert autoencoder.decode(posterior.mode()).shape == (4, 3, 24, 24)
    assert autoencoder.decode_features(posterior.mode()).shape == posterior.features.shape
    assert posterior.features.shape == (4, 9, 16)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_sources_modules_at_the_sources_size():
    """DINOv2-L's 1024 channels to 96 and back, and 16 x 16 x 96 to 256 x 256, by hand."""

    def layer(a, b):
        return a * b + b + 2 * b  # linear, layer norm

    with torch.device("meta"):
        projector, reader = MLPConfig().build(1024, 96, (16, 16))
        pixels = PixelDecoderConfig().build(96)
    two_heads = 2 * (256 * 96 + 96)
    assert count(projector) == layer(1024, 512) + layer(512, 256) + two_heads == 707_008
    block = 2 * 1024 + 2 * (1024 * 1024 + 1024)
    assert count(ResidualBlock(1024)) == block
    up = layer(96, 256) + layer(256, 512) + 512 * 1024 + 1024
    assert count(reader) == up + 2 * block == 4_885_760

    def conv(a, b):
        return 9 * a * b + b

    def residual(a):
        return 2 * (2 * a) + 2 * conv(a, a)

    expected, width = conv(96, 512) + 2 * 512, 512
    for out in (512, 512, 256, 128):
        expected += 2 * residual(width) + conv(width, out)
        width = out
    expected += 2 * 128 + conv(128, 3)
    assert count(pixels) == expected
    assert pixels(torch.empty(1, 96, 16, 16, device="meta")).shape == (1, 3, 256, 256)


def test_the_mlp_sees_each_token_alone_and_the_transformer_all(tmp_path, images):
    for name, alone in (("mlp", True), ("transformer", False)):
        autoencoder = config(tmp_path, name).build()
        features = autoencoder.features(images)
        other = features.clone()
        other[:, 5] += 1
        one, two = (autoencoder.project(f).mean.flatten(2) for f in (features, other))
        changed = (one - two).abs().amax((0, 1)) > 1e-6
        assert changed[5]
        assert (changed.sum() == 1) == alone


def test_a_resolution_that_is_not_decoded_is_told(tmp_path, images):
    autoencoder = config(tmp_path).build()
    with pytest.raises(UserError) as caught:
        autoencoder.encode(images[..., :16, :16])
    assert str(caught.value) == (
        "resolution 16 does not suit this autoencoder: the encoder's grid of 3 x 3 tokens decodes "
        "to 24 x 24 pixels (each of 3 levels doubles it). Set transform.resolution=24, the "
        "encoder's resolution, or decoder.levels"
    )


def test_a_patch_ends_the_decoder_in_the_place_of_a_level(tmp_path, images):
    """As many pixels; each position of the last level gives a square of them."""
    whole = config(tmp_path).build()
    patches = replace(DECODER, levels=[8, 8], patch=2)
    autoencoder = replace(config(tmp_path), decoder=patches).build()
    assert autoencoder.factor == whole.factor == 8
    out = autoencoder.decode(autoencoder.encode(images).mode())
    assert out.shape == images.shape
    conv, inside = autoencoder.pixels.conv_out, []
    conv.register_forward_hook(lambda _, args, given: inside.append(given))
    again = autoencoder.pixels(autoencoder.encode(images).mode())
    # pixel (2 i + a, 2 j + b) of color c is output channel 4 c + 2 a + b at position (i, j)
    assert torch.equal(again[:, 1, 1::2, 0::2], inside[0][:, 4 * 1 + 2 * 1 + 0])
    assert "ends it" in patches.scale and "ends it" not in DECODER.scale


def test_an_encoder_without_tokens_is_refused():
    from latentsmith.encoders.pixel_pca import PixelPCAConfig

    with pytest.raises(ValueError, match="encoder=pixel_pca has no patch tokens: choose clip, "):
        SemanticAutoencoderConfig(encoder=PixelPCAConfig(), projector=MLPConfig())


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "efficientnet_lite0"])
def test_vision_encoders_are_settings(kind, tmp_path):
    encoder = {
        "clip": lambda: ClipConfig(source=tiny_clip(tmp_path / "e")),
        "siglip": lambda: SiglipConfig(source=tiny_siglip(tmp_path / "e")),
        "dinov2": lambda: DinoV2Config(source=tiny_dinov2(tmp_path / "e"), resolution=56),
        "efficientnet_lite0": lambda: EfficientNetLite0Config(resolution=128),
    }[kind]()
    made = config(tmp_path, "mlp", encoder=encoder).build()
    images = torch.rand(2, 3, 32, 32)
    assert made.encode(images).mean.shape == (2, 6, 4, 4)
    task = SemanticTask(
        made, SemanticObjectiveConfig(mse=1.0, encoder_lr=0.1), target=encoder.build()
    )
    task("autoencoder", batch(images), step())["loss"].backward()
    moved = [p for p in made.encoder.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert moved
    made.measure_normalizer([images])
    again = load_autoencoder(made.save_pretrained(tmp_path / "saved"))
    assert torch.equal(again.encode(images).mean, made.eval().encode(images).mean)


# Normalizations -----------------------------------------------------------------------------------


def test_one_image_has_three_normalizations(tmp_path, images):
    """The encoder's own, [0, 1] for pixels, and none is fed another's."""
    autoencoder = config(tmp_path).build()
    seen = []
    autoencoder.encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    task = SemanticTask(autoencoder, SemanticObjectiveConfig(l1=1.0, mse=0.0, kl=0.0, semantic=0.0))
    judged = []
    task._reconstruction = lambda images, recon: (
        judged.append((images, recon))
        or (
            recon.mean(),
            {},
        )
    )
    task("autoencoder", batch(images), step())
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    big = F.interpolate(images, (42, 42), mode="bicubic", antialias=True).clamp(0, 1)
    wanted = (big - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert seen[0].shape == (4, 3, 42, 42)
    torch.testing.assert_close(seen[0], wanted, atol=0.02, rtol=0)
    ((original, recon),) = judged
    assert torch.equal(original, images)
    raw = autoencoder.pixels(autoencoder.encode(images).sample(step().noise("posterior")))
    torch.testing.assert_close(recon, (raw + 1) / 2)


def test_features_are_standardized_by_what_was_measured(tmp_path, images):
    autoencoder = config(tmp_path).build()
    plain = autoencoder.features(images).flatten(0, 1).double()
    autoencoder.measure_features(images.split(2))
    torch.testing.assert_close(autoencoder.feature_mean.double(), plain.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        autoencoder.feature_std.double(), plain.std(0, correction=0), atol=1e-5, rtol=0
    )
    rows = autoencoder.features(images).flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(16), atol=1e-4, rtol=0)


# Losses -------------------------------------------------------------------------------------------


def test_the_loss_is_the_formula(tmp_path, images):
    autoencoder = config(tmp_path).build()
    objective = SemanticObjectiveConfig(semantic=0.7, cosine=0.3, l1=0.5, mse=0.5, kl=0.01)
    out = SemanticTask(autoencoder, objective)("autoencoder", batch(images), step())
    posterior = autoencoder.encode(images)
    z = posterior.sample(step().noise("posterior"))
    f, back = posterior.features, autoencoder.decode_features(z)
    recon = autoencoder.decode(z)
    mu, logvar = posterior.mean, posterior.logvar
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()  # over all latent elements
    cosine = 1 - (F.normalize(back, dim=-1) * F.normalize(f, dim=-1)).sum(-1).mean()
    pixels = 0.5 * (recon - images).abs().mean() + 0.5 * ((recon - images) ** 2).mean()
    wanted = 0.7 * ((back - f) ** 2).mean() + 0.3 * cosine + pixels + 0.01 * kl
    torch.testing.assert_close(out["loss"], wanted)
    torch.testing.assert_close(out["kl"], kl.detach())


def test_detached_pixels_teach_the_pixel_decoder_alone(tmp_path, images):
    for detach in (True, False):
        autoencoder = config(tmp_path).build()
        objective = SemanticObjectiveConfig(semantic=0.0, kl=0.0, l1=1.0, detach=detach)
        SemanticTask(autoencoder, objective)("autoencoder", batch(images), step())[
            "loss"
        ].backward()
        reached = {
            name: any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
            for name, part in (("pixels", autoencoder.pixels), ("latent", autoencoder.projector))
        }
        assert reached == {"pixels": True, "latent": not detach}


def test_without_pixel_terms_nothing_is_decoded(tmp_path, images):
    autoencoder = config(tmp_path).build()
    task = SemanticTask(autoencoder, SemanticObjectiveConfig(l1=0.0, mse=0.0))
    autoencoder.pixels.register_forward_pre_hook(lambda *_: pytest.fail("decoded"))
    out = task("autoencoder", batch(images), step())
    assert "l1" not in out
    idle = {id(p) for p in autoencoder.pixels.parameters()}
    assert not idle & {id(p) for o in task.objectives() for p in o.params}


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_gradient_reaches_every_parameter(name, tmp_path, images):
    made = config(tmp_path, name)
    autoencoder = made.build()
    objective = SemanticObjectiveConfig(l1=0.5, mse=0.5, encoder_lr=0.1)
    task = SemanticTask(autoencoder, objective, target=made.encoder.build())
    task("autoencoder", batch(images), step())["loss"].backward()
    unused = ("mask_token", "cls_token")  # of DINOv2: its tokens alone are read
    for parameter, value in task.named_parameters():
        if value.requires_grad and not any(name in parameter for name in unused):
            assert value.grad is not None and value.grad.abs().sum() > 0, parameter


def test_the_target_stays_while_the_encoder_moves(tmp_path, images):
    made = config(tmp_path)
    autoencoder, original = made.build(), made.encoder.build()
    objective = SemanticObjectiveConfig(l1=0.5, mse=0.5, encoder_lr=0.5)
    task = SemanticTask(autoencoder, objective, target=made.encoder.build())
    (part,) = task.objectives()
    optimizer = adamw(part.params, TrainConfig(lr=1e-2), part.undecayed, part.slower)
    set_lr(optimizer, 1e-2)
    before = original(images).tokens
    for n in range(3):
        optimizer.zero_grad()
        task.train()("autoencoder", batch(images), step(n))["loss"].backward()
        optimizer.step()
    assert torch.equal(task.target(images).tokens, before)
    assert not torch.allclose(autoencoder.encoder(images).tokens, before, atol=1e-3)
    posterior = autoencoder.encode(images)
    assert torch.equal(task._wanted(images, posterior), autoencoder.standardized(original, images))


def test_the_encoder_has_a_learning_rate_of_its_own(tmp_path):
    made = config(tmp_path)
    objective = SemanticObjectiveConfig(encoder_lr=0.1, encoder_trains=r"layer\.0\.")
    task = SemanticTask(made.build(), objective, target=made.encoder.build())
    (part,) = task.objectives()
    optimizer = adamw(part.params, TrainConfig(lr=1.0), part.undecayed, part.slower)
    set_lr(optimizer, 0.5)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    own = {n: p for n, p in task.autoencoder.encoder.named_parameters() if p.requires_grad}
    assert own and all(".layer.0." in name for name in own)
    assert {rates[id(p)] for p in own.values()} == {0.05}
    assert {rates[id(p)] for p in task.autoencoder.projector.parameters()} == {0.5}
    with pytest.raises(UserError, match="no weight of encoder dinov2 has a name with 'nowhere'"):
        made.build().train_encoder("nowhere")


def test_a_target_goes_with_a_trained_encoder(tmp_path):
    made = config(tmp_path)
    with pytest.raises(ValueError, match="a target encoder goes with encoder_lr > 0"):
        SemanticTask(made.build(), SemanticObjectiveConfig(encoder_lr=0.1))


def test_the_identity_has_no_variance(tmp_path, images):
    autoencoder = config(tmp_path, "identity").build()
    posterior = autoencoder.encode(images)
    assert torch.equal(posterior.logvar, torch.full_like(posterior.mean, LOGVAR[0]))
    assert torch.equal(posterior.mean.flatten(2).mT, posterior.features)
    assert torch.equal(autoencoder.decode_features(posterior.mean), posterior.features)


# Files --------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, images):
    autoencoder = config(tmp_path).build()
    autoencoder.measure_features([images])
    with torch.no_grad():  # a trained encoder: not what its source holds
        for p in autoencoder.encoder.parameters():
            p += 0.01
    autoencoder.measure_normalizer([images])
    return autoencoder, autoencoder.save_pretrained(tmp_path / "saved")


def test_what_is_saved_is_loaded_without_the_source(saved, images, tmp_path):
    autoencoder, folder = saved
    for file in (tmp_path / "dino").iterdir():
        file.unlink()
    again = load_autoencoder(folder)
    assert again.digest() == autoencoder.digest()
    assert not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():  # torch's transformer layers add up in another order with a graph
        one, two = autoencoder.eval().encode(images), again.encode(images)
        assert torch.equal(one.mean, two.mean)
        assert torch.equal(one.logvar, two.logvar)
        for what in ("decode", "decode_features"):
            assert torch.equal(*(getattr(a, what)(one.mean) for a in (autoencoder, again)))
    z, normalizer = one.mean.double(), again.require_normalizer()
    there_and_back = normalizer.denormalize(normalizer.normalize(z))
    torch.testing.assert_close(there_and_back, z, atol=1e-12, rtol=0)


def test_a_trained_encoder_makes_the_normalizer_stale(saved):
    autoencoder, _ = saved
    with torch.no_grad():
        next(autoencoder.encoder.parameters()).add_(0.1)
    with pytest.raises(UserError, match="was measured on another encoder"):
        autoencoder.require_normalizer()


def test_damage_is_told(saved, tmp_path):
    _, folder = saved
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"settings": {"projector": {}}}))
    with pytest.raises(UserError, match="do not fit this version of latentsmith: encoder"):
        load_autoencoder(folder)
    about["settings"]["latent_channels"] = 5
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"model.safetensors does not fit config.json: size mism"):
        load_autoencoder(folder)
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="holds no readable semantic autoencoder"):
        load_autoencoder(folder)
    with pytest.raises(UserError, match=r"holds no autoencoder: no readable config\.json"):
        load_autoencoder(tmp_path / "nothing")


def test_weights_are_a_function_of_the_seed(tmp_path):
    made = config(tmp_path)
    one, two = made.build(), made.build()
    other = replace(made, init_seed=1).build()
    assert one.digest() == two.digest() != other.digest()
