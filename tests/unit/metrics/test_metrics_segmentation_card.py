"""Encoders measured on pixels, from dataset to card."""

from pathlib import Path

import pytest
import torch

from helpers.tiny_models import tiny_generator
from latentsmith.data.digits import DigitsConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.segments import segment_names
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.subset import draw
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import Encoder, EncoderOutput
from latentsmith.encoders.denoiser import DenoiserConfig
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.errors import UserError
from latentsmith.metrics import segmentation_card
from latentsmith.metrics.card import joint_difference
from latentsmith.metrics.pixel_probe import PixelProbe
from latentsmith.metrics.segmentation_card import SegmentationConfig, measure_segmentation


class Colours(Encoder):
    """Tokens are the image's own pixels."""

    name = "colours"

    def __init__(self, side: int = 16):
        super().__init__()
        self.grid, self.dim = (side, side), 3
        self.register_buffer("gain", torch.ones(()))
        self.freeze()

    def forward(self, images):
        tokens = images.flatten(2).mT * self.gain
        return EncoderOutput(tokens.mean(1), tokens=tokens)

    def fingerprint(self):
        return {"kind": self.name}


class Painted(MemoryDataset):
    """Noise in which red is the class of a pixel: 0, 1 or 2."""

    segment_names = ["floor", "wall", "door"]  # noqa: RUF012

    def __init__(self, name="painted/train", n=40, size=(16, 16), seed=0):
        gen = torch.Generator().manual_seed(seed)
        self.true = torch.randint(3, (n, *size), generator=gen)
        images = torch.randint(256, (n, 3, *size), generator=gen)
        images[:, 0] = 100 * self.true
        super().__init__(images.byte(), None, name=name, classes=None, origin="a test")

    def segments(self, indices):
        return self.true[indices]


TRANSFORM = TransformConfig(resolution=16).build()


def test_a_card_of_one_encoder_and_its_control():
    train, test = Painted(), Painted("painted/val", 30, seed=1)
    cfg = SegmentationConfig(batch_size=16, resamples=20, pixels=50, seed=3)
    card = measure_segmentation(Colours(), train, test, TRANSFORM, cfg=cfg)
    assert not card.not_measured
    names = (
        "mean_iou_colours",
        "pixel_accuracy_colours",
        "mean_iou_pixels",
        "pixel_accuracy_pixels",
    )
    assert tuple(m.name for m in card) == names
    for m in card:  # the tokens are the pixels
        assert m.value > 0.99 and m.baseline < 0.4
        assert (m.stamp.data, m.stamp.count, m.stamp.seed) == ("painted/val", 30, 3)
        detail = m.stamp.detail
        assert (detail["train"], detail["train_count"]) == ("painted/train", 40)
        assert (detail["pixels"], detail["classes"], detail["resamples"]) == (50, 3, 20)
        assert detail["transform"] == TRANSFORM.fingerprint()
    assert card.get("mean_iou_colours").stamp.detail["features"] == {"kind": "colours"}
    assert card.get("mean_iou_colours").value == card.get("mean_iou_pixels").value
    assert card.figures["class_iou_colours"].mean() == card.get("mean_iou_colours").value
    alone = measure_segmentation(Colours(), train, test, TRANSFORM, cfg=cfg, controls=False)
    assert [m.to_json() for m in alone] == [m.to_json() for m in card][:2]


def test_settings_reach_the_fit(monkeypatch):
    seen = []

    def spy(batches, **how):
        seen.append(how | {"batches": [len(labels) for _, labels in batches]})
        return PixelProbe(torch.zeros(4, 1, dtype=torch.float64), torch.tensor([2]))

    monkeypatch.setattr(segmentation_card, "fit_pixel_probe", spy)
    cfg = SegmentationConfig(batch_size=15, pixels=7, over="classes", seed=3)
    test = Painted("painted/val", 30, seed=1)
    card = measure_segmentation(Colours(), Painted(), test, TRANSFORM, cfg=cfg)
    assert seen == 2 * [{"pixels": 7, "over": "classes", "seed": 3, "batches": [15, 15, 10]}]
    assert card.get("pixel_accuracy_pixels").value == float((test.true == 2).double().mean())


def test_a_class_that_never_occurs_has_no_iou():
    train, test = Painted(), Painted("painted/val", 30, seed=1)
    train.segment_names = test.segment_names = ["floor", "wall", "door", "roof"]
    card = measure_segmentation(Colours(), train, test, TRANSFORM, controls=False)
    iou = card.figures["class_iou_colours"]
    assert iou.isnan().tolist() == [False, False, False, True]


def test_images_unlike_their_labels_are_not_segmented():
    train, test = Painted(), Painted("painted/val", 30, seed=1)
    test.true = test.true.roll(1, 0)
    card = measure_segmentation(Colours(), train, test, TRANSFORM, controls=False)
    assert card.get("mean_iou_colours").value < 0.3
    assert card.get("pixel_accuracy_colours").value == pytest.approx(1 / 3, abs=0.05)


def test_parts_of_data_keep_their_labels():
    train, test = draw(Painted(n=90), 40), draw(Painted("painted/val", 80, seed=1), 30)
    card = measure_segmentation(Colours(), train, test, TRANSFORM, controls=False)
    assert card.get("mean_iou_colours").value > 0.99
    assert card.get("mean_iou_colours").stamp.count == 30


@pytest.mark.parametrize("size", [(16, 22), (26, 16)])
def test_labels_are_cropped_as_images_are(size):
    train, test = Painted(size=size), Painted("painted/val", 30, size, seed=1)
    card = measure_segmentation(Colours(), train, test, TRANSFORM, controls=False)
    assert card.get("mean_iou_colours").value > 0.99


def test_labels_keep_their_size_and_a_squeezed_image_its_whole():
    """An image of vertical bands, squeezed to half its width."""
    train, test = Painted(size=(16, 32)), Painted("painted/val", 30, (16, 32), seed=1)
    for data in (train, test):
        data.true = (torch.arange(len(data))[:, None] + torch.arange(32) // 8)[:, None] % 3
        data.true = data.true.expand(-1, 16, -1)
        data.images[:, 0] = (100 * data.true).byte()
    squeeze = TransformConfig(resolution=16, crop="none").build()
    card = measure_segmentation(Colours(), train, test, squeeze, controls=False)
    assert card.get("pixel_accuracy_colours").value > 0.9


def test_a_generator_s_times_have_paired_intervals(tmp_path):
    source = tiny_generator(tmp_path)
    train, test = (
        ShapesConfig(resolution=16, train_count=40, val_count=30).build(s, Path())
        for s in ("train", "val")
    )
    cards = [
        measure_segmentation(
            DenoiserConfig(source=source, time=time).build(), train, test, TRANSFORM
        )
        for time in (0.1, 1.0)
    ]
    for card in cards:
        assert len(card.figures["class_iou_denoiser"]) == 9
        assert card.get("mean_iou_denoiser").stamp.detail["classes"] == 9
    assert cards[0].get("mean_iou_pixels") == cards[1].get("mean_iou_pixels")
    low, high = joint_difference(*cards, "mean_iou_denoiser")
    change = cards[0].get("mean_iou_denoiser").value - cards[1].get("mean_iou_denoiser").value
    assert low <= change <= high and segment_names(test)[0] == "background"


def test_refusals_come_before_any_work(tmp_path, monkeypatch):
    train, test = Painted(), Painted("painted/val", seed=1)
    monkeypatch.setattr(Colours, "forward", lambda self, images: pytest.fail("too late"))
    digits = DigitsConfig().build("val", tmp_path)
    flipped = TransformConfig(resolution=16, flip=True).build()
    other = Painted("other/val")
    other.segment_names = ["floor", "wall", "roof"]
    pca = PixelPCAConfig().build()
    for encoder, a, b, transform, message in (
        (pca, train, test, TRANSFORM, "encoder pixel_pca has no tokens"),
        (Colours(), digits, test, TRANSFORM, "digits/val does not know the class of every pixel"),
        (Colours(), train, digits, TRANSFORM, "digits/val does not know the class of every pixel"),
        (Colours(), train, test, flipped, "without crop=random and flip=true"),
        (Colours(), train, other, TRANSFORM, "floor, wall, door; those of other/val .* roof"),
    ):
        with pytest.raises(UserError, match=message):
            measure_segmentation(encoder, a, b, transform)
