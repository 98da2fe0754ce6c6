"""latentsmith.measure: any object with encode and decode, in whatever range it works."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import latentsmith
from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.errors import UserError
from latentsmith.metrics.card import CardConfig
from latentsmith.metrics.registry import METRICS

CFG = CardConfig(resamples=10, paths=2, steps=3, batch_size=16)


@pytest.fixture(scope="module")
def images():
    """Blobs of different sizes and places, [40, 3, 16, 16] in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    small = torch.rand(40, 3, 4, 4, generator=rng)
    return nn.functional.interpolate(small, size=(16, 16), mode="bilinear")


@pytest.fixture(scope="module")
def diffusers_vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=2,
        layers_per_block=1,
    )


class Halving:
    """Keeps every second pixel; works between ``low`` and ``high``."""

    def __init__(self, low: float = 0.0, high: float = 1.0):
        self.low, self.high = low, high

    def encode(self, x):
        assert self.low - 0.1 < float(x.min()) < self.low + 0.3  # bicubic may overshoot a bit
        assert self.high - 0.3 < float(x.max()) < self.high + 0.1
        return nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        return nn.functional.interpolate(z, scale_factor=2)


def values(card):
    return {name: m.value for name, m in card.items()}


def test_diffusers_and_ours_and_a_pair_of_functions_agree(diffusers_vae, images):
    class Own:
        def encode(self, x):
            return (diffusers_vae.encode(2 * x - 1).latent_dist.mode(),)

        def decode(self, z):
            return diffusers_vae.decode(z).sample / 2 + 0.5

    found = [
        latentsmith.measure(vae, images, cfg=CFG)
        for vae in (diffusers_vae, KLAutoencoder(diffusers_vae), Own())
    ]
    assert len(found[0]) > 20 and "pairdist_pearson_pixels" in found[0]
    for other in found[1:]:
        assert values(other) == pytest.approx(values(found[0]), rel=1e-4, abs=1e-5)


def test_the_numbers_are_those_of_the_metrics(images):
    vae = Halving()
    card = latentsmith.measure(vae, images, cfg=CFG)
    recon = vae.decode(vae.encode(images))
    assert card["psnr"].value == METRICS["psnr"](images, recon)
    z, pixels = vae.encode(images).flatten(1), images.flatten(1)
    assert card["pairdist_pearson_pixels"].value == METRICS["pairdist_pearson"](z, pixels)
    assert card["psnr"].interval is not None and card["psnr"].stamp.count == 40


def test_the_range_is_told_or_asked_for(images):
    class Centred(Halving):
        def decode(self, z):
            return super().decode(2 * z - 1) if self.low == 0 else super().decode(z)

    with pytest.raises(UserError, match=r"does not work in \[0, 1\]: tell its range, value_range"):
        latentsmith.measure(Centred(), images, cfg=CFG)
    plain = latentsmith.measure(Halving(), images, cfg=CFG)
    scaled = latentsmith.measure(Centred(-1.0, 1.0), images, value_range=(-1.0, 1.0), cfg=CFG)
    assert scaled["psnr"].value == pytest.approx(plain["psnr"].value, abs=1e-4)


def test_images_may_be_bytes_or_pictures(images):
    as_bytes = (images * 255).round().to(torch.uint8)
    pictures = [Image.fromarray(np.asarray(x.movedim(0, -1))) for x in as_bytes]
    a, b = (latentsmith.measure(Halving(), x, cfg=CFG) for x in (as_bytes, pictures))
    assert values(a) == values(b)
    gray = [picture.convert("L") for picture in pictures]
    assert latentsmith.measure(Halving(), gray, cfg=CFG)["psnr"].value > 10


def test_labels_and_encoders_add_their_numbers(images):
    pca = PixelPCAConfig(components=4, resolution=16).build()
    pca.fit([images])
    spaces = {"pca": pca, "corners": lambda x: x[..., ::8, ::8]}
    labels = [n % 2 for n in range(40)]
    card = latentsmith.measure(Halving(), images, labels=labels, encoders=spaces, cfg=CFG)
    names = set(card)
    assert {
        "pairdist_pearson_pca",
        "pairdist_pearson_corners",
        "fd_corners",
        "linear_probe",
    } < names
    assert "pairdist_pearson_pixels" not in names


def test_a_module_is_put_back_as_it_was(images):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.scale = nn.Dropout(0.5), nn.Parameter(torch.ones(1))
            self.frozen = nn.Identity()

        def encode(self, x):
            return self.drop(x * self.scale)

        def decode(self, z):
            return z

    vae = Noisy().train()
    vae.frozen.eval()
    assert latentsmith.measure(vae, images, cfg=CFG)["psnr"].value > 70  # nothing was dropped
    assert vae.training and vae.drop.training and not vae.frozen.training
    assert vae.scale.grad is None


def test_it_prints_shows_and_saves(images, tmp_path):
    card = latentsmith.measure(Halving(), images, cfg=CFG, name="half <b>")
    lines = str(card).splitlines()
    assert lines[:2] == ["Latent space of half <b>, 40 images", "reconstruction:"]
    assert any(line.split()[0] == "psnr" and "dB" in line for line in lines)
    page = card._repr_html_()
    assert "half &lt;b&gt;" in page and "<b>" not in page and "PSNR" in page
    assert card.save(tmp_path).name == "card.html"
    assert json.loads((tmp_path / "card.json").read_text())["kind"] == "latent-space card"


def test_a_number_that_is_not_there_says_why(images):
    class Flat(Halving):
        def encode(self, x):
            return x.flatten(1)

        def decode(self, z):
            return z.view(-1, 3, 16, 16)

    card = latentsmith.measure(Flat(), images, cfg=CFG)
    with pytest.raises(KeyError, match=r"spectral_slope was not measured: spectral_slope needs"):
        card["spectral_slope"]
    with pytest.raises(KeyError, match="psnrr was not measured: Did you mean 'psnr'"):
        card["psnrr"]
    assert card.get("psnrr") is None and "psnr" in card


class Shrinks(Halving):
    def decode(self, z):
        return z


class Dict(Halving):
    def encode(self, x):
        return {"z": x}


@pytest.mark.parametrize(
    ("vae", "given", "told"),
    [
        (object(), None, "object has no encode()"),
        (Shrinks(), None, "decode() gave images [3, 8, 8] for images [3, 16, 16]"),
        (Dict(), None, "encode() gave a dict"),
        (Halving(), torch.full((8, 3, 16, 16), 255.0), "these reach from 255 to 255"),
        (Halving(), torch.full((8, 3, 16, 16), float("nan")), "these reach from nan to nan"),
        (Halving(), torch.rand(8, 5, 16, 16), "with 1 or 3 channels, these are [8, 5, 16, 16]"),
        (Halving(), torch.ones(8, 3, 4, 4, dtype=torch.int64), "these are torch.int64"),
        (Halving(), [torch.rand(3, 8, 8), torch.rand(3, 4, 4)], "must all be of one size"),
    ],
)
def test_mistakes_are_answered(images, vae, given, told):
    with pytest.raises(UserError) as error:
        latentsmith.measure(vae, images if given is None else given, cfg=CFG)
    assert told in str(error.value)


def test_run_is_the_command_s(toy):
    done = latentsmith.run("toy", "data=dots", "engine=steam", "scale=smoke")
    assert done.finished and done.summary("finetune") == {"samples": done.config.finetune.samples}
    assert str(done.path) == "runs/toy/smoke,data=dots,engine=steam"
    assert latentsmith.run("toy", "data=dots", "engine=steam", "scale=smoke").path == done.path
    begun = latentsmith.run("toy", "data=dots", "engine=steam", out="half", until="pretrain")
    assert not begun.finished and begun.stage_done("pretrain")
    with pytest.raises(UserError, match="no recipe 'toi'"):
        latentsmith.run("toi")


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="no attribute 'meazure'"):
        latentsmith.meazure
