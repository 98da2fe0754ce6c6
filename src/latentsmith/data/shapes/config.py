"""Captioned shapes as a dataset."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import xxhash
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Sample, Split
from latentsmith.data.shapes import edits, scene
from latentsmith.data.shapes.edits import Edit, edit_scene
from latentsmith.data.shapes.factors import factor_tensors, factor_vectors
from latentsmith.data.shapes.render import masks, render, segments
from latentsmith.data.shapes.scene import Scene, draw_scene
from latentsmith.data.shapes.texts import caption
from latentsmith.data.streams import uniforms

Label = Literal["shape", "color", "size", "background", "count"]
_CLASSES: dict[str, tuple[str, ...]] = {
    "shape": scene.SHAPES,
    "color": scene.COLORS,
    "size": scene.SIZES,
    "background": scene.BACKGROUNDS,
    "count": ("one", "two"),
}


@DATASETS.register("shapes", help="procedural captioned shapes with known factors and edits")
@schema
class ShapesConfig(DatasetConfig):
    """Antialiased images of one or two shapes, their factors, captions and edits.

    Sample i is a pure function of (seed, split, i): nothing is stored, and a larger count only
    adds samples.
    """

    kind: Literal["shapes"] = "shapes"
    resolution: Annotated[int, Field(ge=16, le=1024)] = 64
    """Side of the images in pixels."""
    train_count: Annotated[int, Field(ge=1)] = 20_000
    """Training samples."""
    val_count: Annotated[int, Field(ge=1)] = 2_000
    """Validation samples, from another random stream."""
    seed: int = 0
    """Seeds scenes, captions and edits."""
    pairs: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of scenes with two objects."""
    captions: Literal["full", "mixed"] = "mixed"
    """full: every caption names every factor but the rotation; mixed: some leave factors out."""
    label: Label = "shape"
    """The factor that serves as class (of the first object)."""
    edits: bool = False
    """Add edit triples: target image, instruction and what must not change."""

    def build(self, split: Split, cache: Path) -> "ShapesDataset":
        """Nothing is fetched or kept."""
        return ShapesDataset(self, split)


class ShapesDataset:
    """Samples ``{"image" uint8 [3, R, R], "label", "caption", "mentions", "factors"}``.

    ``factors`` is a dict of tensors (`factor_tensors`), ``mentions`` lists the factors the caption
    names. With edits also: ``"target"`` (image), ``"target_caption"``, ``"target_factors"``,
    ``"instruction"``, ``"edited"`` (``"object0.color"``, ``"background"``, ``"object1.add"``) and
    ``"untouched"`` (list of factors).
    """

    def __init__(self, cfg: ShapesConfig, split: Split):
        self.cfg, self.split = cfg, split
        self.name = f"shapes{cfg.resolution}/{split}"
        self.classes: list[str] | None = list(_CLASSES[cfg.label])
        self.origin = "drawn by latentsmith"
        self.image_keys = ("image", "target") if cfg.edits else ("image",)
        self.segment_names = ["background", *scene.SHAPES]
        self._count = cfg.train_count if split == "train" else cfg.val_count

    def __len__(self) -> int:
        return self._count

    @property
    def digest(self) -> str:
        """Of the settings and of a few samples, so that it also changes with this code."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        shown = self.gather(torch.arange(min(32, len(self))))
        images = [shown[key].numpy().tobytes() for key in self.image_keys]
        texts = repr([shown.get(key) for key in ("caption", "instruction")])
        state = xxhash.xxh3_128(repr((self.cfg, self.name, len(self), texts)).encode())
        for part in images:
            state.update(part)
        return state.hexdigest()

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 [N], without drawing any."""
        return self._labels(self.factors(torch.arange(len(self))))

    def scenes(self, indices: Tensor | Sequence[int]) -> list[Scene]:
        """What samples show, without drawing them."""
        rows = self._draws("scene", indices, scene.DRAWS)
        return [draw_scene(row, self.cfg.pairs) for row in rows]

    def edit_triples(self, indices: Tensor | Sequence[int]) -> list[Edit]:
        """The edit of each sample; its ``source`` is the sample's scene."""
        rows = self._draws("edit", indices, edits.DRAWS)
        return [edit_scene(s, row) for s, row in zip(self.scenes(indices), rows, strict=True)]

    def factors(self, indices: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """Every factor as tensors; see `factor_tensors`."""
        return factor_tensors(self.scenes(indices))

    def vectors(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Factors as a reference space, float32 [B, D]; see `factor_vectors`."""
        return factor_vectors(self.scenes(indices))

    def masks(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Coverage of each object: float32 [B, 2, R, R] in [0, 1]."""
        return masks(self.scenes(indices), self.cfg.resolution)

    def segments(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Class of every pixel, background or kind of shape: int64 [B, R, R] into
        ``segment_names``. See `latentsmith.data.shapes.render.segments`."""
        return segments(self.scenes(indices), self.cfg.resolution)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = _first(self.gather(torch.tensor([index])))
        return sample | {"label": int(sample["label"])}

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] → the collated samples, drawn together."""
        scenes = self.scenes(indices)
        words = self._draws("caption", indices, 2)
        batch: dict[str, Any] = {"image": render(scenes, self.cfg.resolution)}
        factors = factor_tensors(scenes)
        batch["label"] = self._labels(factors)
        told = [self._caption(s, u[0]) for s, u in zip(scenes, words, strict=True)]
        batch["caption"] = [text for text, _ in told]
        batch["mentions"] = [mentioned for _, mentioned in told]
        batch["factors"] = factors
        if self.cfg.edits:
            batch |= self._edited(indices, [u[1] for u in words])
        return batch

    def _labels(self, factors: dict[str, Tensor]) -> Tensor:
        """int64 [B]"""
        values = factors[self.cfg.label]
        if self.cfg.label == "count":
            return values - 1
        return values if values.dim() == 1 else values[:, 0]

    def _edited(self, indices: Tensor, words: list[float]) -> dict[str, Any]:
        triples = self.edit_triples(indices)
        targets = [edit.target for edit in triples]
        told = [self._caption(s, u)[0] for s, u in zip(targets, words, strict=True)]
        return {
            "target": render(targets, self.cfg.resolution),
            "target_caption": told,
            "target_factors": factor_tensors(targets),
            "instruction": [edit.instruction for edit in triples],
            "edited": [edit.edited for edit in triples],
            "untouched": [edit.untouched for edit in triples],
        }

    def _caption(self, shown: Scene, u: float) -> tuple[str, list[str]]:
        return caption(shown, u, full=self.cfg.captions == "full")

    def _draws(self, what: str, indices: Tensor | Sequence[int], count: int) -> list[list[float]]:
        names = ("shapes", self.cfg.seed, self.split, what)
        return uniforms(names, torch.as_tensor(indices), count).tolist()


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    """The one sample of a batch of one."""
    return {k: _first(v) if isinstance(v, dict) else v[0] for k, v in batch.items()}
