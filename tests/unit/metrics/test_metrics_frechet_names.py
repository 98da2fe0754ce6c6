"""What may be called FID, and what the feature spaces are called."""

import pytest

from helpers.tiny_models import random_inception, tiny_dinov2
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.inception import SHA256, Inception, InceptionConfig
from latentsmith.metrics.frechet_names import feature_space, frechet_name


def fingerprint(**changed) -> dict[str, object]:
    encoder = Inception(random_inception(), digest=SHA256, config=InceptionConfig())
    return encoder.fingerprint() | changed


def test_fid_is_the_published_network_its_resize_and_50_000_samples():
    assert frechet_name("inception", 50_000, fingerprint()) == "fid"
    clean = fingerprint(resize="bicubic_antialias")
    assert frechet_name("inception", 50_000, clean) == "fid_clean"


@pytest.mark.parametrize(
    ("count", "changed"),
    [(49_999, {}), (50_001, {}), (50_000, {"weights": "0" * 64}), (50_000, {"resize": "area"}),
     (50_000, {"kind": "clip"})],
)  # fmt: skip
def test_anything_else_is_not_fid(count, changed):
    assert frechet_name("inception", count, fingerprint(**changed)) == "fd_inception"


def test_without_a_fingerprint_nothing_is_fid():
    assert frechet_name("inception", 50_000) == "fd_inception"


def test_dinov2_spaces_are_named_as_dgm_eval_does(tmp_path):
    encoder = DinoV2Config(source=tiny_dinov2(tmp_path), resolution=224).build()
    assert feature_space(encoder) == "dinov2"  # no published size
    for width, name in ((384, "vits14"), (768, "vitb14"), (1024, "vitl14"), (1536, "vitg14")):
        encoder.dim = width
        assert feature_space(encoder) == f"dinov2_{name}"
    encoder.dim, encoder.output, encoder.resolution = 1024, "pooled", 518
    assert feature_space(encoder) == "dinov2_vitl14_pooled_518"
    encoder.prefix = 5
    assert feature_space(encoder) == "dinov2_vitl14_reg_pooled_518"


def test_other_encoders_by_their_kind():
    encoder = Inception(random_inception(), digest="x", config=InceptionConfig())
    assert feature_space(encoder) == "inception"
