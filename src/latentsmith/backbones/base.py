"""What every denoising network promises."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.errors import UserError
from latentsmith.registry import Registry

BACKBONES = Registry("backbone", "latentsmith.backbones")

Condition = dict[str, Tensor]
"""What a sample is generated from, one tensor [B, …] per name. Class-conditional networks take
``label`` int64 [B]; text-conditional ones ``text`` [B, L, E], every position's embedding (a text
store's ``embedding``), SDXL also ``pooled`` [B, P], the whole text's, and ``time_ids`` [B, 6], its
image sizes and crops; text-conditional transformers also the texts' ``mask`` [B, L] and the image
to edit, ``source`` [B, C, H, W] with ``has_source`` [B]. Empty for unconditional models."""

Tap = int | str
"""A place inside a network whose output is wanted: a block, numbered from 1 in the order they
run, or, where the network has such, a name."""


@dataclass
class BackboneOutput:
    """What a denoiser saw in noisy latents.

    ``sample`` [B, C, H, W], in the network's own parametrization (`Backbone.predicts`);
    ``variance`` [B, C, H, W], the raw second half of networks that also learn the variance (DiT),
    else None; ``hidden`` tap → tokens [B, N, D] there, in raster order, for the taps asked for
    (`Backbone.as_map` gives them as a map).
    """

    sample: Tensor
    variance: Tensor | None = None
    hidden: dict[Tap, Tensor] = field(default_factory=dict)


@schema
class BackboneConfig:
    """Base of all backbone configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str
    predicts: Parametrization = "velocity"
    """What the network's output means: velocity (SiT), noise (DiT), v, data or score. Separate
    from what the loss compares (`DiffusionConfig.objective`)."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def build(self, latent_shape: tuple[int, int, int], classes: int | None) -> "Backbone":
        """A fresh network, float32.

        Args:
            latent_shape: (C, H, W) of the latents.
            classes: number of classes, None for unconditional.

        Raises:
            UserError: the latent's side is no multiple of the patch.
        """
        raise TypeError(f"{type(self).__name__} has no build()")


class Backbone(nn.Module):
    """A network from noisy latents, time and condition to a prediction.

    Attributes:
        predicts: what the output means.
        latent_shape: (C, H, W).
        classes: number of classes, None when unconditional.
        config: the settings it was built from.
        width: D of `BackboneOutput.hidden`; where blocks differ, the middle's (see `tap_shape`).
        depth: number of blocks.
        grid: (rows, columns) of the token grid; where blocks differ, the middle's.
        edits: whether it can be given an image to edit, ``source``.
    """

    edits: bool = False
    predicts: Parametrization
    latent_shape: tuple[int, int, int]
    classes: int | None
    config: BackboneConfig
    width: int
    depth: int
    grid: tuple[int, int]

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[Tap] = ()
    ) -> BackboneOutput:
        """z [B, C, H, W], t [B] in [0, 1] (0 = data, 1 = noise) → output; ``taps``: blocks
        1…depth, or names, whose tokens are wanted."""
        raise TypeError(f"{type(self).__name__} has no forward()")

    def check_latents(self, z: Tensor, t: Tensor) -> None:
        """Raises UserError unless z is [B, *latent_shape] and t is [B]."""
        if z.ndim != 4 or tuple(z.shape[1:]) != self.latent_shape:
            raise UserError(
                f"latents of shape {list(z.shape)} given to a network for "
                f"[B, {', '.join(map(str, self.latent_shape))}]"
            )
        if t.shape != z.shape[:1]:
            raise UserError(f"times of shape {list(t.shape)} for {len(z)} latents: give one each")

    def check_taps(self, taps: Collection[Tap]) -> None:
        """Raises UserError for taps that are no blocks, of networks whose taps are numbers."""
        wrong = [tap for tap in taps if not (isinstance(tap, int) and 1 <= tap <= self.depth)]
        if wrong:
            raise UserError(f"there is no block {wrong[0]}: blocks are 1 … {self.depth}")

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the conditions it must be given; none for unconditional networks."""
        return ("label",) if self.classes is not None else ()

    def complete(self, condition: Condition) -> Condition:
        """The condition with what it leaves out and the network can say itself (SDXL's image
        sizes). Here: as it is. Raises UserError when a part is missing that it cannot."""
        return condition

    def undecayed(self) -> list[nn.Parameter]:
        """Trainable parameters that weight decay should leave alone, besides vectors."""
        return []

    def features(
        self, z: Tensor, t: Tensor, condition: Condition, taps: Collection[Tap]
    ) -> dict[Tap, Tensor]:
        """Tap → tokens [B, N, D]; arguments as `forward`'s. Networks that can stop after the last
        tap do."""
        return self(z, t, condition, taps=taps).hidden

    def nothing(self, count: int, device: torch.device) -> Condition:
        """The condition that says nothing, for ``count`` samples; empty for unconditional
        networks."""
        if not self.takes:
            return {}
        return self.null({"label": torch.zeros(count, dtype=torch.int64, device=device)})

    def tap_shape(self, tap: Tap) -> tuple[int, tuple[int, int]]:
        """(D, (rows, columns)) of the tokens at ``tap``. Here: the same after every block."""
        return self.width, self.grid

    def as_map(self, tap: Tap, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] of ``tap`` as a map [B, D, rows, columns]: a view, no copy."""
        return tokens.transpose(1, 2).unflatten(2, self.tap_shape(tap)[1])

    def null(self, condition: Condition) -> Condition:
        """The condition that says nothing, of the same batch size: what label dropout puts in the
        place of a condition and what guidance compares with. Raises UserError when the network
        was built without one (unconditional)."""
        raise TypeError(f"{type(self).__name__} has no null()")

    def null_text(self, condition: Condition) -> Condition:
        """The condition without its text but with the image to edit: what guidance of edits
        compares with, besides `null`. Raises UserError for networks that edit nothing."""
        raise UserError(
            f"a {self.config.kind} network is given no image to edit: use backbone=text_dit, or "
            "guidance=cfg"
        )

    def borrowed_state(self) -> dict[str, Tensor]:
        """name → weight that comes from a source in the settings and is read there again: frozen,
        and not saved with the network (`latentsmith.backbones.export`). Here: none."""
        return {}
