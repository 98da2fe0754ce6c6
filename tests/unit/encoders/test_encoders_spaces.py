"""Reference spaces: raw, unit and standardized points; cached vectors; stamps."""

import pytest
import torch

from helpers.tiny_models import tiny_dinov2
from latentsmith.data.loader import Loader
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.errors import UserError
from latentsmith.training.team import Team


def images(n, seed, name):
    gen = torch.Generator().manual_seed(seed)
    return MemoryDataset(
        torch.randint(0, 256, (n, 1, 6, 6), generator=gen, dtype=torch.uint8), name=name
    )


def spaces(cache, **scales):
    configs = {name: PixelPCAConfig(components=4, scale=scale) for name, scale in scales.items()}
    return ReferenceSpaces(
        configs,
        TransformConfig(resolution=6, channels=1, flip=True),
        images(40, 0, "toy/train"),
        Team.join(several_objectives=False),
        cache=cache,
    )


def test_scales(tmp_path):
    s = spaces(tmp_path, raw="raw", unit="unit", standardized="standardized")
    points = s.vectors(s.fit_on)
    raw = points["raw"]
    assert torch.equal(raw, s.raw_vectors("unit", s.fit_on))  # one cache whatever the scale
    assert torch.allclose(points["unit"].norm(dim=1), torch.ones(40))
    assert torch.allclose(points["unit"] * raw.norm(dim=1, keepdim=True), raw, atol=1e-6)
    assert torch.allclose(points["standardized"].mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(points["standardized"].std(0), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize("scale", ["raw", "unit", "standardized"])
def test_online_points_are_the_cached_ones(tmp_path, scale):
    s = spaces(tmp_path, here=scale)
    held_out = images(5, 1, "toy/val")
    batch = next(s.loader(held_out).epoch())["image"]
    assert torch.allclose(s.locate("here", batch), s.vectors(held_out)["here"], atol=1e-6)


def test_the_view_is_fixed_although_training_flips(tmp_path):
    s = spaces(tmp_path, here="raw")
    assert s.transform.deterministic
    expected = s.fit_on.images.float() / 255
    assert torch.equal(next(s.loader(s.fit_on).epoch())["image"], expected)


def test_tokens_on_disk_are_those_computed_now(tmp_path):
    configs = {
        "dino": DinoV2Config(source=tiny_dinov2(tmp_path / "dino"), resolution=28),
        "pca": PixelPCAConfig(components=4),
    }
    transform = TransformConfig(resolution=12, channels=1)
    s = ReferenceSpaces(
        configs,
        transform,
        images(40, 0, "toy/train"),
        Team.join(several_objectives=False),
        cache=tmp_path / "cache",
    )
    held_out = images(7, 1, "toy/val")
    column = s.tokens("dino", held_out)
    assert len(column) == 7 and column.shape == (7, 4, 16)
    assert s.token_width("dino") == 16
    now = s.locate_tokens("dino", next(s.loader(held_out).epoch())["image"])
    rows = torch.tensor([5, 0, 5])
    assert torch.allclose(column[rows].float(), now[rows], atol=1e-3)
    assert torch.allclose(now.norm(dim=-1), torch.ones(7, 4))
    loader = Loader(held_out, s.transform, batch_size=3, seed=0, columns={"tokens/dino": column})
    batch = next(loader.iterate())
    assert torch.equal(batch["tokens/dino"], column[batch["index"]])
    assert loader.fingerprint["columns"] == {"tokens/dino": [4, 16]}
    with pytest.raises(UserError, match=r"'pca' \(pixel_pca\) has no patch tokens"):
        s.token_width("pca")


def test_description_names_scale_and_weights(tmp_path):
    s = spaces(tmp_path, a="unit", b="raw")
    described = s.describe()
    assert described["a"].startswith("pixel_pca:pooled:unit@")
    assert described["a"] != described["b"]


def test_a_constant_dimension_stays_finite_when_standardized(tmp_path):
    s = spaces(tmp_path, here="standardized")
    flat = MemoryDataset(torch.full((6, 1, 6, 6), 9, dtype=torch.uint8), name="toy/flat")
    assert s.vectors(flat)["here"].isfinite().all()
