"""The latent card of a toy autoencoder: what is in it, what is stamped, what cannot be measured."""

import json

import pytest
import torch
import torch.nn.functional as F

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp, metric
from latentsmith.metrics.card import CardConfig, joint_difference
from latentsmith.metrics.card_decoder import measure_equivariance, measure_smoothness
from latentsmith.metrics.card_file import load_card, save_card
from latentsmith.metrics.card_parts import measure_geometry, measure_probes
from latentsmith.metrics.latent_card import CardData, latent_card
from latentsmith.metrics.pairdist import pairdist_pearson

CFG = CardConfig(
    points=96, resamples=10, paths=4, steps=3, midpoints=64, equivariance_images=16, batch_size=32
)
STAMP = Stamp(data="toy/val", count=0)


def toy(n: int = 128, seed: int = 0):
    """Blobs at class positions: images [n, 1, 32, 32], labels, a reference [n, 5]."""
    gen = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    coarse = torch.zeros(n, 1, 4, 4)
    coarse[torch.arange(n), 0, labels, labels] = 1.0
    coarse = coarse + 0.2 * torch.rand(n, 1, 4, 4, generator=gen)
    images = F.interpolate(coarse, 32, mode="bilinear").clamp(0, 1)
    reference = coarse.flatten(1) @ torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    return images, labels, reference


def encode(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 4)


def decode(z: torch.Tensor) -> torch.Tensor:
    return F.interpolate(z, scale_factor=4.0, mode="nearest")


def extract(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 8).flatten(1)


@pytest.fixture(scope="module")
def card():
    images, labels, reference = toy()
    return latent_card(
        encode,
        decode,
        CardData(images=images, references={"ref": reference}, labels=labels),
        {"blocks": extract},
        stamp=STAMP,
        distance=("l2", lambda a, b: (a - b).square().flatten(1).mean(1)),
        cfg=CFG,
    )


def test_every_stage_a_and_b_number_is_there(card):
    expected = {f"{m.name}_ref" for m in METRICS.taking("latents", "reference")}
    expected |= {f"{n}_labels" for n in ("pairdist_pearson", "pairdist_spearman", "cka_linear")}
    expected |= {"knn_accuracy", "id_twonn", "id_mle"}
    expected |= {m.name for m in METRICS.taking("maps")}
    controls = ("", "_pixels", "_pixel_pca")
    expected |= {f"{p}_probe{c}" for p in ("linear", "knn") for c in controls}
    expected |= {"psnr", "psnr_pooled", "ssim", "l2", "fd_blocks", "kid_blocks", "ifd_blocks"}
    expected |= {f"equivariance_error_{t}" for t in CFG.transforms}
    expected |= {
        f"path_length{part}_{kind}_l2"
        for part in ("", "_variance", "_cv")
        for kind in ("lerp", "slerp")
    }
    assert {m.name for m in card} == expected
    assert card.not_measured == {}
    assert len({m.name for m in card}) == len(card.measurements)


def test_numbers_are_those_of_the_plain_functions(card):
    images, _, reference = toy()
    z = encode(images)
    assert card.get("pairdist_pearson_ref").value == pytest.approx(
        pairdist_pearson(z[:96], reference[:96]), abs=1e-12
    )
    assert card.get("linear_probe").value > 0.9
    assert card.get("psnr").value == pytest.approx(METRICS["psnr"](images, decode(z)))
    assert card.get("equivariance_error_hflip").value == pytest.approx(0, abs=1e-9)
    assert card.get("nothing") is None


def test_every_number_carries_its_protocol(card):
    for m in card:
        assert m.stamp.data == "toy/val"
        assert m.stamp.count > 0
        assert m.metric in METRICS.names()
    assert card.get("pairdist_pearson_ref").stamp.count == 96
    assert card.get("pairdist_pearson_ref").stamp.space == "ref"
    assert card.get("psnr").stamp.count == 128
    assert card.get("linear_probe").stamp.detail["train_count"] == 64
    paths = card.get("path_length_cv_slerp_l2").stamp
    assert (paths.count, paths.detail["eps"], paths.detail["kind"]) == (4, 1e-2, "slerp")
    assert card.get("ifd_blocks").stamp.detail["neighbours"] == "other latents"
    json.dumps(card.to_json(), allow_nan=False)


def test_figures(card):
    shapes = {name: tuple(t.shape) for name, t in card.figures.items()}
    assert shapes == {
        "pairs_ref": (2, 5000),
        "channel_moments": (2, 1),
        "path_speeds_lerp": (4, 3),
        "path_speeds_slerp": (4, 3),
        "path_grid_lerp": (4, 3, 1, 32, 32),
        "path_grid_slerp": (4, 3, 1, 32, 32),
        "midpoints": (64, 1, 32, 32),
        "recon": (2, 8, 1, 32, 32),
    }
    assert torch.isfinite(card.figures["pairs_ref"]).all()
    assert (card.figures["pairs_ref"] >= 0).all()


def test_a_collapsed_encoder_costs_the_numbers_not_the_card():
    _, labels, reference = toy()
    card = measure_geometry(torch.ones(128, 2, 8, 8), {"ref": reference}, labels, stamp=STAMP,
                            cfg=CFG)  # fmt: skip
    assert "collapsed" in card.not_measured["pairdist_pearson_ref"]
    assert "distinct latents" in card.not_measured["id_twonn"]
    assert card.get("active_dims").value == 0
    assert card.get("latent_std").value == 0


def test_broken_inputs_stop_the_card():
    images, labels, reference = toy()
    z = encode(images)
    with pytest.raises(UserError, match=r"latents hold NaN"):
        measure_geometry(z * torch.nan, {"ref": reference}, labels, stamp=STAMP)
    with pytest.raises(UserError, match="reference 'ref' must belong to the same samples"):
        measure_geometry(z, {"ref": reference[:5]}, labels, stamp=STAMP)
    with pytest.raises(UserError, match="train_images come without train_labels"):
        latent_card(
            encode, decode, CardData(images, {"ref": reference}, labels, train_images=images),
            stamp=STAMP, cfg=CFG,
        )  # fmt: skip


def test_a_registered_metric_joins_the_card_by_itself():
    @metric("constant_seven", help="seven", inputs=("latents", "reference"), higher_is_better=None)
    def constant_seven(latents, reference) -> float:
        """Seven."""
        return 7.0

    try:
        images, _, reference = toy(40)
        card = measure_geometry(encode(images), {"ref": reference}, stamp=STAMP, cfg=CFG)
        assert card.get("constant_seven_ref").value == 7.0
    finally:
        del METRICS._entries["constant_seven"]


def test_separate_training_images_fit_the_probe():
    images, labels, reference = toy()
    train, train_labels, _ = toy(64, seed=5)
    data = CardData(images, {"ref": reference}, labels, train, train_labels)
    card = latent_card(encode, decode, data, stamp=STAMP, cfg=CFG)
    assert card.get("linear_probe").stamp.detail["train_count"] == 64
    assert card.get("linear_probe").stamp.count == 128
    # Without an extractor or a distance the path length is said to be in pixels.
    assert card.get("path_length_lerp_pixels") is not None


def test_latents_without_a_grid_are_said_not_to_have_one():
    images, _, _ = toy(32)
    card = measure_equivariance(lambda x: x.flatten(1)[:, :4], images, stamp=STAMP, cfg=CFG)
    assert set(card.not_measured) == {f"equivariance_error_{t}" for t in CFG.transforms}
    assert "latents [B, C, h, w]" in card.not_measured["equivariance_error_hflip"]
    tall = measure_equivariance(encode, images[..., :16], stamp=STAMP, cfg=CFG)
    assert tall.get("equivariance_error_rot90").value == pytest.approx(0, abs=1e-9)


def test_a_decoder_that_breaks_costs_smoothness_only():
    z = encode(toy(32)[0])
    card = measure_smoothness(
        lambda z: decode(z) * torch.nan, z,
        distance=lambda a, b: (a - b).flatten(1).sum(1), distance_space="l1",
        extract={"blocks": (extract, extract(toy(32)[0]))}, stamp=STAMP, cfg=CFG,
    )  # fmt: skip
    assert set(card.not_measured) == {"path_length_lerp_l1", "path_length_slerp_l1", "ifd_blocks"}


def test_probe_controls_without_pixels_are_left_out():
    images, labels, _ = toy(64)
    z = encode(images)
    card = measure_probes(
        {"latents": z[:32]}, labels[:32], {"latents": z[32:]}, labels[32:], stamp=STAMP, cfg=CFG
    )
    assert {m.name for m in card} == {"linear_probe", "knn_probe"}


def test_card_survives_the_disk(card, tmp_path):
    save_card(card, tmp_path / "card")
    again = load_card(tmp_path / "card")
    assert json.dumps(again.to_json()) == json.dumps(card.to_json())
    assert again.figures.keys() == card.figures.keys()
    before, after = (c.get("psnr").draws for c in (card, again))
    assert torch.equal(before, after)
    assert again.get("latent_std").draws is None
    with pytest.raises(UserError, match="no measurements at"):
        load_card(tmp_path / "none")
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_card(tmp_path / "card")


def test_joint_difference_is_sharper_than_two_intervals():
    """A constant loss on every sample is certain, however much the samples differ."""
    images, labels, reference = toy()
    gen = torch.Generator().manual_seed(0)
    z = encode(images)
    worse = z + 0.2 * torch.randn(z.shape, generator=gen)
    a, b = (
        measure_geometry(x, {"ref": reference}, labels, stamp=STAMP, cfg=CFG) for x in (worse, z)
    )
    for name in ("pairdist_pearson_ref", "mutual_knn_ref", "cka_linear_ref"):
        low, high = joint_difference(a, b, name)
        difference = a.get(name).value - b.get(name).value
        assert low <= difference + 0.02
        assert difference - 0.02 <= high
        assert high < 0
        widths = [m.interval[1] - m.interval[0] for m in (a.get(name), b.get(name))]
        assert high - low < sum(widths)
    assert joint_difference(a, a, "mutual_knn_ref") == (0.0, 0.0)
    assert joint_difference(a, b, "latent_std") is None
    assert joint_difference(a, b, "nothing") is None
    fewer = measure_geometry(z[:50], {"ref": reference[:50]}, stamp=STAMP, cfg=CFG)
    assert joint_difference(a, fewer, "mutual_knn_ref") is None
