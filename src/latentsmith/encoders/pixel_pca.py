"""Principal components of pixels: the simplest reference, and a control for semantic ones."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput
from latentsmith.encoders.streaming_pca import (
    EXACT_UP_TO,
    Components,
    CovarianceStream,
    IncrementalStream,
)
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_path


@ENCODERS.register("pixel_pca", help="top-k principal components of pixels; fitted on your data")
@schema
class PixelPCAConfig(EncoderConfig):
    """Projection of the flattened image on its training set's leading principal components."""

    kind: Literal["pixel_pca"] = "pixel_pca"
    components: int = 128
    """How many components k to keep."""
    resolution: int | None = None
    """Images are resized to this square before projection; left out: their size at fitting."""
    whiten: bool = False
    """Divide each projection by its standard deviation, so that every component counts alike."""
    max_images: int = 50_000
    """Fitting stops after this many images."""
    state: str | None = None
    """File of an earlier fit (``.safetensors``). Left out: `fit` it before use."""

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"components must be 1 or more, not {self.components}")
        if self.max_images <= self.components:
            raise ValueError(
                f"max_images {self.max_images} is too few for {self.components} components: use "
                f"{self.components + 1} or more"
            )

    def build(self) -> "PixelPCA":
        """An encoder that still `needs_fit`, unless ``state`` names a saved fit."""
        encoder = PixelPCA(self)
        if self.state is not None:
            encoder.load(Path(self.state))
        return encoder


class PixelPCA(Encoder):
    """Top-k pixel PCA; see `PixelPCAConfig`. Fit once, save, load."""

    name = "pixel_pca"
    mean: Tensor
    """float32 [D]."""
    axes: Tensor
    """float32 [k, D], orthonormal rows."""
    variance: Tensor
    """float32 [k], the spectrum: variance of each projection."""

    def __init__(self, config: PixelPCAConfig):
        super().__init__()
        self.config = config
        self.dim = config.components
        self.needs_fit = True
        self.size: tuple[int, int, int] | None = None
        """(C, H, W) the axes belong to."""
        self.count = 0
        self.total_variance = 0.0
        for name in ("mean", "axes", "variance"):
            self.register_buffer(name, torch.zeros(0))
        self.freeze()

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of the pixels' total variance in each component [k]."""
        self._require_fit()
        return self.variance / self.total_variance

    def _require_fit(self) -> tuple[int, int, int]:
        if self.size is None:
            raise UserError(
                "encoder pixel_pca has not been fitted: call fit(batches of training images), or "
                "set its state to the file of an earlier fit"
            )
        return self.size

    def _resized(self, images: Tensor) -> Tensor:
        if self.config.resolution is None:
            return images
        return resize(images, (self.config.resolution, self.config.resolution))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> "PixelPCA":
        """Fit on a stream of [B, C, H, W] in [0, 1], at most ``max_images`` of them.

        Exact up to 2,048 pixel values; beyond, a truncated incremental fit that never holds more
        than a chunk of images. Images must share a size (or set ``resolution``).

        Raises:
            UserError: fewer images or pixel values than components, or mixed sizes.
        """
        stream: CovarianceStream | IncrementalStream | None = None
        size, seen = (0, 0, 0), 0
        for batch in batches:
            images = self._resized(batch[: self.config.max_images - seen]).cpu()
            c, h, w = images.shape[1:]
            if stream is None:
                size, stream = (c, h, w), self._stream(c * h * w)
            if (c, h, w) != size:
                raise UserError(
                    f"pixel_pca was given images of {size} and of {(c, h, w)} (C, H, W): set its "
                    "resolution, or give them one size"
                )
            stream.update(images.flatten(1))
            seen += len(images)
            if seen >= self.config.max_images:
                break
        if stream is None or seen <= self.dim:
            raise UserError(
                f"pixel_pca needs more images than components to fit: got {seen} for {self.dim} "
                "components"
            )
        self._adopt(stream.finish(), size)
        return self

    def _stream(self, pixels: int) -> CovarianceStream | IncrementalStream:
        if self.dim > pixels:
            raise UserError(
                f"pixel_pca is asked for {self.dim} components of images with {pixels} pixel "
                f"values: set components to {pixels} or fewer"
            )
        kind = CovarianceStream if pixels <= EXACT_UP_TO else IncrementalStream
        return kind(pixels, self.dim)

    def _adopt(self, fitted: Components, size: tuple[int, int, int]) -> None:
        device = self.mean.device
        self.mean = fitted.mean.float().to(device)
        self.axes = fitted.axes.float().to(device)
        self.variance = fitted.variance.float().to(device)
        self.total_variance, self.count, self.size = fitted.total_variance, fitted.count, size
        self.needs_fit = False
        self._check_whitening()

    def _check_whitening(self) -> None:
        # Beyond the data's rank a projection is rounding noise, and whitening would blow it up.
        alive = int((self.variance > 1e-6 * self.variance[0]).sum())
        if self.config.whiten and alive < self.dim:
            raise UserError(
                f"pixel_pca cannot whiten {self.dim} components: the images vary in only {alive} "
                f"directions. Set components to {max(alive, 1)} or whiten to false"
            )

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize to the fitted size and flatten: [B, D]. Raises UserError before the fit, or for
        other channels than fitted."""
        c, h, w = self._require_fit()
        if images.shape[1] != c:
            raise UserError(
                f"pixel_pca was fitted on {c} image channel(s), these images have {images.shape[1]}"
            )
        return resize(images, (h, w)).flatten(1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> EncoderOutput:
        """[B, C, H, W] in [0, 1] → pooled [B, k]."""
        projected = (self.preprocess(images).float() - self.mean) @ self.axes.T
        if self.config.whiten:
            projected = projected / self.variance.sqrt()
        return EncoderOutput(pooled=projected)

    def save(self, path: Path) -> Path:
        """Write the fit (mean, axes, spectrum, total variance) as one safetensors file."""
        size = self._require_fit()
        tensors = {"mean": self.mean, "axes": self.axes, "variance": self.variance}
        tensors["size"] = torch.tensor(size)
        tensors["count"] = torch.tensor(self.count)
        tensors["total_variance"] = torch.tensor(self.total_variance, dtype=torch.float64)
        with atomic_path(Path(path)) as tmp:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, tmp)
        return Path(path)

    def load(self, path: Path) -> "PixelPCA":
        """Take over a saved fit, its leading ``components``.

        Raises:
            UserError: no such file, not such a file, or it holds fewer components.
        """
        try:
            with safe_open(path, "pt") as file:
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            axes = saved["axes"]
            c, h, w = saved["size"].tolist()
            fitted = Components(
                saved["mean"],
                axes[: self.dim],
                saved["variance"][: self.dim],
                float(saved["total_variance"]),
                int(saved["count"]),
            )
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(
                f"cannot load the pixel_pca fit {str(path)!r}: {error}. Fit it again, or give the "
                "file that save() wrote"
            ) from error
        if len(axes) < self.dim:
            raise UserError(
                f"{path} holds {len(axes)} components, the setting asks for {self.dim}: set "
                f"components to {len(axes)} or fewer, or fit again"
            )
        self._adopt(fitted, (c, h, w))
        return self

    def digest(self) -> str:
        """Of mean, axes and spectrum. Raises UserError before the fit."""
        self._require_fit()
        return state_digest(self.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`. Raises UserError before the fit."""
        return {
            "kind": self.name,
            "weights": self.digest(),
            "size": list(self._require_fit()),
            "components": self.dim,
            "whiten": self.config.whiten,
            "resize": "bicubic-antialias",
            "output": self.output,
        }
