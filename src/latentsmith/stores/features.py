"""Teacher tokens and pooled vectors of an image encoder."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.base import Dataset, keys_of
from latentsmith.data.transforms import Transform
from latentsmith.encoders.base import Encoder
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, FieldSpec, Stored, StoreManifest
from latentsmith.stores.contents import Contents, Progress, checked, device_of, fill, source_of
from latentsmith.stores.images import ImageRows, Images

Grid = tuple[int, int]


def pool_tokens(tokens: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Average tokens [B, H·W, D] in raster order over a coarser grid: [B, h·w, D].

    On the two-dimensional grid: dropping or averaging tokens of the raster sequence would shear
    the rows. Windows overlap where the sides do not divide (37 → 16), as in
    ``adaptive_avg_pool2d``.

    Raises:
        UserError: a target larger than the grid.
    """
    if target == grid:
        return tokens
    if target[0] > grid[0] or target[1] > grid[1]:
        raise UserError(
            f"tokens lie on a grid of {grid[0]} x {grid[1]}: they cannot be pooled to "
            f"{target[0]} x {target[1]}. Give a smaller grid, or the encoder a higher resolution"
        )
    maps = tokens.transpose(1, 2).unflatten(2, grid)  # [B, D, H, W]
    return F.adaptive_avg_pool2d(maps, target).flatten(2).transpose(1, 2).contiguous()


def token_contents(
    encoder: Encoder,
    dataset: Dataset,
    transform: Transform,
    *,
    dtype: Stored = "float16",
    unit: bool = True,
    grid: Grid | None = None,
    unreadable_share: float = 0.01,
) -> Contents:
    """What a store of teacher tokens holds: ``tokens`` [N, D] in raster order.

    Args:
        encoder: one with tokens, on the device to use.
        transform: without chance; the encoder resizes what it gives.
        dtype: ``int8``: a quarter of float32's bytes, see `latentsmith.stores.quantize`.
        unit: every token divided by its length (after pooling).
        grid: average over this coarser grid, see `pool_tokens`.
        unreadable_share: see `ImageRows`.

    Raises:
        UserError: an encoder without tokens, a random transform. While computing: a token that
            is zero, or not finite, naming sample and token.
    """
    if encoder.grid is None:
        raise UserError(f"encoder {encoder.name} has no tokens: store its vectors instead")
    images = ImageRows(dataset, transform, device_of(encoder), unreadable_share=unreadable_share)
    compute = _Tokens(encoder, images, keys_of(dataset), dtype, unit, grid or encoder.grid)
    probe = compute.tokens(_dark(transform, device_of(encoder)))
    extra: dict[str, Any] = {"unit": unit, "grid": list(compute.target)}
    if compute.target != encoder.grid:
        extra["pooled_from"] = list(encoder.grid)
    return Contents(
        StoreManifest(
            "tokens",
            {"tokens": FieldSpec(tuple(probe.shape[1:]), dtype)},
            len(dataset),
            {**encoder.fingerprint(), "output": "tokens"},
            source_of(dataset),
            transform.fingerprint(),
            extra,
        ),
        compute.keys,
        compute,
    )


def vector_contents(
    encoder: Encoder,
    dataset: Dataset,
    transform: Transform,
    *,
    dtype: Stored = "float32",
    unit: bool = False,
    unreadable_share: float = 0.01,
) -> Contents:
    """What a store of an encoder's vectors holds: ``vector`` [D], the encoder's ``output``, and
    ``label`` int64 [] when the dataset has classes. Arguments as `token_contents`.

    Raises:
        UserError: a random transform, an encoder that is not fitted; while computing: a vector
            that is zero or not finite, naming the sample.
    """
    if encoder.needs_fit:
        raise UserError(f"encoder {encoder.name} must be fitted before its vectors are stored")
    images = ImageRows(dataset, transform, device_of(encoder), unreadable_share=unreadable_share)
    width = encoder.vector(_dark(transform, device_of(encoder))).shape[1]
    fields = {"vector": FieldSpec((width,), dtype)}
    if dataset.classes is not None:
        fields["label"] = FieldSpec((), "int64")
    keys = keys_of(dataset)
    manifest = StoreManifest(
        "vectors",
        fields,
        len(dataset),
        dict(encoder.fingerprint()),
        source_of(dataset),
        transform.fingerprint(),
        {"unit": unit},
    )
    return Contents(manifest, keys, _Vectors(encoder, images, keys, dtype, unit))


def _dark(transform: Transform, device: torch.device) -> Tensor:
    """One image, to see what an encoder makes of it."""
    cfg = transform.cfg
    return torch.zeros(1, cfg.channels, cfg.resolution, cfg.resolution, device=device)


class _Features:
    """What tokens and vectors share: reading, checking, naming."""

    def __init__(
        self, encoder: Encoder, images: ImageRows, keys: list[str], dtype: Stored, unit: bool
    ):
        self.encoder, self.images, self.keys = encoder, images, keys
        self.dtype: Stored = dtype
        self.unit = unit
        self.plan, self.close = images.plan, images.close

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        read = self.images.read(rows)
        fields = self.fields(read) if len(read.rows) else {}
        return fields, read.unreadable

    def fields(self, read: Images) -> dict[str, Tensor]:
        """Field → values of the images."""
        raise TypeError(f"{type(self).__name__} has no fields()")

    def normalised(self, values: Tensor, read: Images, what: str) -> Tensor:
        """``values`` [b, …, D] at unit length if wanted.

        Raises:
            UserError: a vector of length zero, which has no direction: the usual sign of a broken
                encoder, layer or image.
        """
        norms = values.norm(dim=-1, keepdim=True)
        zero = (norms == 0).flatten(1)
        if zero.any():
            sample, place = zero.nonzero()[0].tolist()
            which = f"{what} {place}" if zero.shape[1] > 1 else f"the {what}"
            raise UserError(
                f"{which} of sample {self.keys[int(read.rows[sample])]} is zero: encoder "
                f"{self.encoder.name} sees nothing there, and a loss on it would teach nothing. "
                "Show it larger images (its resolution), or take another layer or encoder"
            )
        return values / norms if self.unit else values

    def stored(self, values: Tensor, read: Images, what: str) -> Tensor:
        """Checked, in the dtype of the store, on the CPU."""
        return checked(values, self.dtype, lambda i: self.keys[int(read.rows[i])], what)


class _Tokens(_Features):
    def __init__(
        self,
        encoder: Encoder,
        images: ImageRows,
        keys: list[str],
        dtype: Stored,
        unit: bool,
        target: Grid,
    ):
        super().__init__(encoder, images, keys, dtype, unit)
        self.target: Grid = (int(target[0]), int(target[1]))

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] → float32 [B, N, D] on the target grid."""
        tokens = self.encoder(images).tokens
        assert tokens is not None and self.encoder.grid is not None
        return pool_tokens(tokens, self.encoder.grid, self.target)

    def fields(self, read: Images) -> dict[str, Tensor]:
        tokens = self.normalised(self.tokens(read.images), read, "token")
        return {"tokens": self.stored(tokens, read, "tokens")}


class _Vectors(_Features):
    def fields(self, read: Images) -> dict[str, Tensor]:
        vectors = self.encoder.vector(read.images)
        if self.unit:
            vectors = self.normalised(vectors, read, "vector")
        labels = {} if read.labels is None else {"label": read.labels}
        return {"vector": self.stored(vectors, read, "vectors"), **labels}


def cache_tokens(
    encoder: Encoder,
    dataset: Dataset,
    transform: Transform,
    path: Path,
    *,
    dtype: Stored = "float16",
    unit: bool = True,
    grid: Grid | None = None,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> FeatureStore:
    """The finished store of teacher tokens at ``path``: as it is, gone on with, or made now.

    See `token_contents` for what it holds, `latentsmith.stores.contents.fill` for the rest.
    """
    contents = token_contents(encoder, dataset, transform, dtype=dtype, unit=unit, grid=grid)
    return fill(
        path, contents, batch_size=batch_size, rank=rank, world_size=world_size, progress=progress
    )
