"""Latents of an autoencoder, for a generator that trains on them."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder, Posterior
from latentsmith.data.base import Dataset, keys_of
from latentsmith.data.transforms import Transform
from latentsmith.stores.base import FeatureStore, FieldSpec, StoreManifest
from latentsmith.stores.contents import Contents, Progress, checked, device_of, fill, source_of
from latentsmith.stores.images import ImageRows
from latentsmith.utils.seeding import generator

Latent = Literal["moments", "mode", "sample"]
Float = Literal["float32", "float16", "bfloat16"]
Precision = Literal["float32", "bfloat16"]

FLIPPED = "_flipped"


def latent_contents(
    autoencoder: Autoencoder,
    dataset: Dataset,
    transform: Transform,
    *,
    what: Latent = "moments",
    dtype: Float = "float16",
    flip: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
    unreadable_share: float = 0.01,
) -> Contents:
    """What a store of raw latents [C, h, w] holds.

    Fields: ``mean`` and ``logvar`` of the posterior (``moments``) or ``latent`` (``mode``, the
    mean; ``sample``, one draw); with ``flip`` the same of the mirrored image under
    ``…_flipped`` (the encoder is no mirror-equivariant map: a mirrored latent is another thing);
    ``label`` int64 [] when the dataset has classes.

    Args:
        autoencoder: on the device to use.
        transform: without chance.
        dtype: how numbers are stored.
        seed: seeds the draws of ``sample``; a sample's draw depends on nothing else but its row.
        precision: what the encoder computes in (autocast).
        unreadable_share: see `ImageRows`.

    Raises:
        UserError: a random transform, or a resolution the autoencoder does not take.
    """
    shape = autoencoder.latent_shape(transform.cfg.resolution)
    names = ["mean", "logvar"] if what == "moments" else ["latent"]
    fields = {name: FieldSpec(shape, dtype) for name in names}
    if flip:
        fields |= {name + FLIPPED: FieldSpec(shape, dtype) for name in names}
    if dataset.classes is not None:
        fields["label"] = FieldSpec((), "int64")
    encoder: dict[str, Any] = {
        "kind": autoencoder.kind,
        "weights": autoencoder.encoder_digest(),
        "latent": what,
        "precision": precision,
    }
    if what == "sample":
        encoder["seed"] = seed
    manifest = StoreManifest(
        "latents",
        fields,
        len(dataset),
        encoder,
        source_of(dataset),
        transform.fingerprint(),
        {"flip": flip},
    )
    images = ImageRows(
        dataset, transform, device_of(autoencoder), unreadable_share=unreadable_share
    )
    keys = keys_of(dataset)
    compute = _Latents(autoencoder, images, keys, what, dtype, flip, seed, precision)
    return Contents(manifest, keys, compute)


class _Latents:
    """See `latent_contents`."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        images: ImageRows,
        keys: list[str],
        what: Latent,
        dtype: Float,
        flip: bool,
        seed: int,
        precision: Precision,
    ):
        self.autoencoder, self.images, self.keys = autoencoder, images, keys
        self.what: Latent = what
        self.dtype: Float = dtype
        self.flip, self.seed, self.precision = flip, seed, precision
        self.plan = images.plan
        self.close = images.close

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        read = self.images.read(rows)
        if not len(read.rows):
            return {}, read.unreadable
        training = self.autoencoder.training
        self.autoencoder.eval()
        fields = self._fields(read.images, read.rows, "")
        if self.flip:
            fields |= self._fields(read.images.flip(-1), read.rows, FLIPPED)
        self.autoencoder.train(training)
        if read.labels is not None:
            fields["label"] = read.labels
        return fields, read.unreadable

    def _fields(self, images: Tensor, rows: Tensor, suffix: str) -> dict[str, Tensor]:
        device = images.device.type
        narrow = self.precision != "float32"
        dtype = getattr(torch, self.precision) if narrow else None
        with torch.autocast(device, dtype=dtype, enabled=narrow):
            posterior = self.autoencoder.encode(images)
        values = {"mean": posterior.mean, "logvar": posterior.logvar}
        if self.what == "mode":
            values = {"latent": posterior.mean}
        elif self.what == "sample":
            values = {"latent": self._draw(posterior, rows, suffix)}

        def name(i: int) -> str:
            return self.keys[int(rows[i])]

        return {n + suffix: checked(v, self.dtype, name, "latents") for n, v in values.items()}

    def _draw(self, posterior: Posterior, rows: Tensor, suffix: str) -> Tensor:
        """One draw for each sample, whatever batch it came in."""
        shape = posterior.mean.shape[1:]
        noise = [
            torch.randn(shape, generator=generator(self.seed, "stored latent", suffix, row))
            for row in rows.tolist()
        ]
        drawn = torch.stack(noise).to(posterior.mean.device)
        return posterior.mean + (0.5 * posterior.logvar).exp() * drawn


def cache_latents(
    autoencoder: Autoencoder,
    dataset: Dataset,
    transform: Transform,
    path: Path,
    *,
    what: Latent = "moments",
    dtype: Float = "float16",
    flip: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> FeatureStore:
    """The finished store of latents at ``path``: as it is, gone on with, or made now.

    See `latent_contents` for what it holds and `fill` for resuming, ranks and errors. All ranks
    call this, and all get the store.
    """
    contents = latent_contents(
        autoencoder,
        dataset,
        transform,
        what=what,
        dtype=dtype,
        flip=flip,
        seed=seed,
        precision=precision,
    )
    return fill(
        path, contents, batch_size=batch_size, rank=rank, world_size=world_size, progress=progress
    )
