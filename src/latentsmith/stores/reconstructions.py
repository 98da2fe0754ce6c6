"""What an autoencoder makes of every image: its errors, and both images in a feature space.

From such a store PSNR, SSIM, LPIPS and Fréchet distances come for as many images as there are
(`latentsmith.metrics.stored`), none of which lies anywhere decoded.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.data.base import Dataset, keys_of
from latentsmith.data.transforms import Transform
from latentsmith.encoders.base import Encoder
from latentsmith.errors import UserError
from latentsmith.losses.perceptual import LPIPS
from latentsmith.metrics.reconstruction import psnr_per_image
from latentsmith.metrics.ssim import WINDOW, ssim_per_image
from latentsmith.stores.base import FieldSpec, StoreManifest
from latentsmith.stores.contents import Contents, checked, device_of, source_of
from latentsmith.stores.images import ImageRows

REAL, MADE = "real", "reconstructed"
"""Fields: an encoder's vectors [D] of the image, and of its reconstruction."""


def reconstruction_contents(
    autoencoder: Autoencoder,
    encoder: Encoder,
    dataset: Dataset,
    transform: Transform,
    *,
    lpips: LPIPS | None = None,
    unreadable_share: float = 0.01,
) -> Contents:
    """What a store of reconstructions holds, all float32.

    Fields: ``psnr`` and ``ssim`` (where a side has 11 pixels) of each image, ``lpips_<net>`` if
    asked for, ``real`` and ``reconstructed`` [D].

    Args:
        autoencoder: on the device to use; images are decoded from the most likely latents.
        encoder: of the feature space, on the same device.
        transform: without chance.
        unreadable_share: see `ImageRows`.

    Raises:
        UserError: a random transform, a resolution the autoencoder does not take, an encoder that
            is not fitted or gives tokens.
    """
    autoencoder.latent_shape(transform.cfg.resolution)
    if encoder.needs_fit or encoder.output == "tokens":
        raise UserError(
            f"reconstructions are compared by one vector for each image: encoder {encoder.name} "
            "must be fitted, and its output another than tokens"
        )
    images = ImageRows(
        dataset, transform, device_of(autoencoder), unreadable_share=unreadable_share
    )
    keys = keys_of(dataset)
    compute = _Reconstructions(autoencoder.eval(), encoder, images, keys, lpips)
    made_by: dict[str, Any] = {
        "kind": autoencoder.kind,
        "weights": autoencoder.digest(),
        "features": {"name": encoder.name, **encoder.fingerprint()},
    }
    if lpips is not None:
        made_by["lpips"] = lpips.net
    shape = (transform.cfg.channels, transform.cfg.resolution, transform.cfg.resolution)
    probe = compute.measured(torch.full((1, *shape), 0.5, device=device_of(autoencoder)))
    manifest = StoreManifest(
        "reconstructions",
        {name: FieldSpec(tuple(value.shape[1:]), "float32") for name, value in probe.items()},
        len(dataset),
        made_by,
        source_of(dataset),
        transform.fingerprint(),
    )
    return Contents(manifest, keys, compute)


class _Reconstructions:
    """See `reconstruction_contents`."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        encoder: Encoder,
        images: ImageRows,
        keys: list[str],
        lpips: LPIPS | None,
    ):
        self.autoencoder, self.encoder, self.images = autoencoder, encoder, images
        self.keys, self.lpips = keys, lpips
        self.plan, self.close = images.plan, images.close

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        read = self.images.read(rows)
        if not len(read.rows):
            return {}, read.unreadable

        def name(i: int) -> str:
            return self.keys[int(read.rows[i])]

        found = self.measured(read.images)
        return {n: checked(v, "float32", name, n) for n, v in found.items()}, read.unreadable

    @torch.no_grad()
    def measured(self, images: Tensor) -> dict[str, Tensor]:
        """Field → values [B, …] of images [B, C, H, W] in [0, 1]."""
        made = self.autoencoder.decode(self.autoencoder.encode(images).mode()).clamp(0, 1)
        found = {"psnr": psnr_per_image(images, made)}
        if min(images.shape[-2:]) >= WINDOW:
            found["ssim"] = ssim_per_image(images, made)
        if self.lpips is not None:
            found[f"lpips_{self.lpips.net}"] = self.lpips(images, made)
        return found | {REAL: self.encoder.vector(images), MADE: self.encoder.vector(made)}
