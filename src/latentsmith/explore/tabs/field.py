"""A few points of a picture → the picture at any resolution."""

from typing import Any

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, pictures
from latentsmith.explore.fields import fill
from latentsmith.explore.form import Control, Number, Sample, Text
from latentsmith.explore.tab import Tab, image_of

MOST = 512
"""Largest side that is decoded here; `latentsmith reconstruct` has no limit."""
SHOWN = 224
"""Pixels that every picture is drawn at, so that resolutions compare."""


class Fields(Tab):
    """Sparse samples → any resolution."""

    title = "Sparse samples"
    help = (
        "The model is given some points of an image and nothing else, and answers at every "
        "coordinate: decoded here at several resolutions from one code."
    )
    place = 45
    live = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """A field autoencoder of pictures."""
        if arm.kind != "images":
            return False
        autoencoder = bench.autoencoder(arm)
        return isinstance(autoencoder, FieldAutoencoder) and autoencoder.config.dims == 2

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Of which image, how many points, which resolutions."""
        config = _model(bench, arms[0]).config
        total = config.lattice**2
        sides = dict.fromkeys([config.lattice, config.resolution, 2 * config.resolution])
        return [
            Sample(name="image", label="Image", count=len(bench.samples)),
            Number(name="points", label="Points given", least=1, most=total, value=total // 5,
                   help=f"Of the {total} of its lattice, at random."),
            Text(name="sides", label="Resolutions", value=", ".join(map(str, sides)),
                 help=f"Up to {MOST}, divided by commas."),
            Number(name="seed", label="Seed", least=0, most=2**31, value=0,
                   help="Of which points are given."),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The points, the truth, and what is decoded."""
        image = image_of(bench, arm, given["image"])
        found = fill(
            _model(bench, arm), image, points=given["points"], sides=_sides(given["sides"]),
            seed=given["seed"],
        )  # fmt: skip
        side = image.shape[-1]
        return [
            pictures(
                [found.given, image], [f"{given['points']} points given", f"truth, {side} px"],
                size=SHOWN,
            ),
            pictures(list(found.made.values()), [f"{s} px" for s in found.made], size=SHOWN),
            facts({f"PSNR at {s} px": f"{db:.1f} dB" for s, db in found.psnr.items()}),
        ]  # fmt: skip


def _model(bench: Bench, arm: Arm) -> FieldAutoencoder:
    found = bench.autoencoder(arm)
    assert isinstance(found, FieldAutoencoder)
    return found


def _sides(text: str) -> list[int]:
    """Raises UserError for what is no list of resolutions."""
    words = text.replace(",", " ").split()
    if not words or not all(w.isdecimal() and 1 <= int(w) <= MOST for w in words):
        raise UserError(f"Resolutions: give whole numbers from 1 to {MOST}, as in 32, 96")
    return list(dict.fromkeys(map(int, words)))[:6]


TAB = Fields()
