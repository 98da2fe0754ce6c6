"""Named reference spaces over one data protocol: encoders built once, vectors cached."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.subset import draw
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import Encoder, EncoderConfig
from latentsmith.encoders.cache import fill_references, mend_references, reference_vectors
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.errors import UserError
from latentsmith.stores.column import StoreColumn
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.counter import Counter

STANDARDIZE_ON = 8192
"""Training images behind the mean and deviation of ``scale=standardized``."""


class ReferenceSpaces:
    """Frozen encoders by name, and where every image of a dataset lies in their spaces.

    Args:
        configs: reference name → encoder.
        transform: how images are seen, without its random parts (`TransformConfig.deterministic`).
        fit_on: images that spaces which must be fitted (pixel PCA) learn from.
        team: this process among those of the run; gives the device.
        batch_size: images per forward pass.
        cache: folder for computed vectors; default: in the user's cache.
    """

    def __init__(
        self,
        configs: Mapping[str, EncoderConfig],
        transform: TransformConfig,
        fit_on: Dataset,
        team: Team,
        *,
        batch_size: int = 64,
        cache: Path | None = None,
    ):
        self.configs, self.fit_on, self.team = dict(configs), fit_on, team
        self.transform = transform.deterministic().build()
        self.batch_size = batch_size
        self.cache = cache or cache_root() / "references"
        self._known_moments: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Reference name → encoder, fitted, on the team's device.

        Raises UserError when weights are not at hand, naming how to get them."""
        encoders = {name: config.build() for name, config in self.configs.items()}
        for encoder in encoders.values():
            if isinstance(encoder, PixelPCA) and encoder.needs_fit:
                encoder.fit(batch["image"] for batch in self.loader(self.fit_on).epoch())
            encoder.to(self.team.device)
        return encoders

    def loader(self, dataset: Dataset) -> Loader:
        """Every image once, in dataset order, under the fixed transform."""
        return Loader(dataset, self.transform, batch_size=self.batch_size, seed=0, shuffle=False)

    def share(self, dataset: Dataset, tokens: Sequence[str] = ()) -> None:
        """Fill the cache with every space's vectors of a dataset, and with the tokens of some; each
        process its shards, so that `vectors` and `tokens` then only read. All processes call this.

        Raises UserError as they do.
        """
        if self.team.world_size == 1:
            self.vectors(dataset)
            for name in tokens:
                self.tokens(name, dataset)
            return
        team, loader = self.team, self.loader(dataset)
        for name, encoder in self.encoders.items():
            team.on_main(partial(mend_references, encoder, loader, self.cache))
            with Counter(f"references {name} of {dataset.name}", len(dataset)) as count:
                fill_references(
                    encoder,
                    loader,
                    self.cache,
                    rank=team.rank,
                    world_size=team.world_size,
                    progress=lambda done, _, count=count: count(done * team.world_size),
                )
        for name in tokens:
            self._tokens(name, dataset, rank=team.rank, world_size=team.world_size)

    def vectors(self, dataset: Dataset) -> dict[str, Tensor]:
        """Reference name → points float32 [N, D] in dataset order, from the cache or computed.

        No collective: with several processes `share` fills the cache first. Rows of unreadable
        images are NaN."""
        return {name: self._place(name, self._one(name, dataset)) for name in self.encoders}

    def raw_vectors(self, name: str, dataset: Dataset) -> Tensor:
        """One encoder's vectors [N, D] before ``scale``, cached like points."""
        return self._one(name, dataset)

    @torch.no_grad()
    def locate(self, name: str, images: Tensor) -> Tensor:
        """Points [B, D] of images [B, C, H, W] in [0, 1] in one space, computed now."""
        return self._place(name, self.encoders[name].vector(images))

    def tokens(self, name: str, dataset: Dataset) -> StoreColumn:
        """Patch tokens [N, P, D] of every image, unit length, float16: read from their store, or
        computed into it first. They stay on disk. Same store as of `latentsmith cache tokens`.

        No collective, as for `vectors`. Raises UserError when the encoder has no tokens."""
        return self._tokens(name, dataset)

    def _tokens(
        self, name: str, dataset: Dataset, *, rank: int = 0, world_size: int = 1
    ) -> StoreColumn:
        from latentsmith.stores.contents import fill
        from latentsmith.stores.features import token_contents

        contents = token_contents(self.encoders[name], dataset, self.transform)
        path = contents.default_path()
        if self.cache != cache_root() / "references":
            path = self.cache / path.name
        with Counter(f"tokens {name} of {dataset.name}", len(dataset)) as count:
            store = fill(
                path,
                contents,
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                progress=lambda done, _: count(done * world_size),
            )
        return StoreColumn(store, "tokens")

    @torch.no_grad()
    def locate_tokens(self, name: str, images: Tensor) -> Tensor:
        """Patch tokens [B, P, D] of images [B, C, H, W] in [0, 1], unit length, computed now.

        Raises UserError when the encoder has no tokens."""
        tokens = self.encoders[name](images).tokens
        if tokens is None:
            raise UserError(
                f"reference {name!r} ({self.encoders[name].name}) has no patch tokens: choose an "
                "encoder with tokens, as dinov2, clip or efficientnet_lite0"
            )
        return F.normalize(tokens, dim=-1)

    def token_width(self, name: str) -> int:
        """D of one encoder's patch tokens. Raises UserError when it has none."""
        side, channels = self.transform.cfg.resolution, self.transform.cfg.channels
        probe = torch.full((1, channels, side, side), 0.5, device=self.team.device)
        return self.locate_tokens(name, probe).shape[2]

    def describe(self) -> dict[str, str]:
        """Reference name → ``kind:output:scale`` with the weights' digest, for stamps."""
        return {
            name: f"{e.name}:{e.output}:{self.configs[name].scale}@{e.digest()[:12]}"
            for name, e in self.encoders.items()
        }

    def _place(self, name: str, vectors: Tensor) -> Tensor:
        """Raw vectors [N, D] → points, by the encoder's ``scale``."""
        scale = self.configs[name].scale
        if scale == "unit":
            return F.normalize(vectors, dim=1)
        if scale == "standardized":
            mean, std = self._moments(name)
            return (vectors - mean.to(vectors.device)) / std.to(vectors.device)
        return vectors

    def _moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and deviation [D] of raw vectors over training images."""
        if name not in self._known_moments:
            rows = self._one(name, draw(self.fit_on, STANDARDIZE_ON)).double()
            rows = rows[rows.isfinite().all(1)]
            # a dimension that never varies must not blow up rounding noise
            std = rows.std(0).clamp_min(1e-6 * float(rows.std()))
            self._known_moments[name] = (rows.mean(0).float(), std.float())
        return self._known_moments[name]

    def _one(self, name: str, dataset: Dataset) -> Tensor:
        with Counter(f"references {name} of {dataset.name}", len(dataset)) as count:
            return reference_vectors(
                self.encoders[name],
                self.loader(dataset),
                self.cache,
                progress=lambda done, _: count(done),
            )
