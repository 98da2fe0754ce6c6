"""From fields to what one training step sees: known points, asked points, never the same twice.

Redrawn at every step: with masks drawn once (the source's baseline) most pixels are never
supervised. Input and query counts are log-uniform, so that a model meets sparse and dense sets
alike; half of the queries lie off the lattice, where nothing was ever stored.
"""

import math
from dataclasses import field
from typing import Annotated

import torch
from pydantic import Field as Setting
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.fields.base import Field, FieldBatch
from latentsmith.data.fields.coordinates import Resolution, grid, sizes
from latentsmith.data.fields.patterns import PATTERNS, Pattern, PatternConfig
from latentsmith.data.fields.patterns.random import RandomConfig
from latentsmith.errors import UserError
from latentsmith.registry import OneOf

Range = tuple[Annotated[int, Setting(ge=1)], Annotated[int, Setting(ge=1)]]


@schema
class FieldSamplingConfig:
    """How many points are known and asked for, and where they lie."""

    resolution: Annotated[int, Setting(ge=1)] = 32
    """Points along each axis of the lattice that inputs come from; values are means over its
    cells."""
    inputs: Range = (32, 512)
    """Fewest and most known points, log-uniform, one number for a whole batch."""
    queries: Range = (64, 1024)
    """Fewest and most points asked for, log-uniform."""
    off_lattice: Annotated[float, Setting(ge=0, le=1)] = 0.5
    """Share of the queries that lie anywhere in the domain; the others are lattice points that are
    not known."""
    symmetries: bool = False
    """Mirror and turn (by quarters) each image and shuffle its channels at random: few images are
    then 48 times as many, where what is up and what is red does not matter."""
    pattern: Annotated[PatternConfig, OneOf(PATTERNS)] = field(default_factory=RandomConfig)
    """Which lattice points are known."""
    asked: Annotated[int, Setting(ge=1)] | None = None
    """Points along each axis of the lattice whose cells the asked values are means over, wherever
    they lie: that of the data, and a decoder learns all the detail there is. null: the inputs'."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("inputs", self.inputs), ("queries", self.queries)):
            if not 1 <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}): it needs 1 <= fewest <= most")

    def build(self) -> "FieldSampler":
        """The sampler; it holds no state."""
        return FieldSampler(self)


class FieldSampler:
    """See `FieldSamplingConfig`."""

    def __init__(self, cfg: FieldSamplingConfig):
        self.cfg = cfg
        self.pattern = cfg.pattern.build()

    def __call__(self, signals: Field, generator: torch.Generator) -> FieldBatch:
        """One step's points, made on the field's device.

        Args:
            signals: B of them, that can be read at ``resolution``.
            generator: decides everything; any device.

        Raises:
            UserError: the field does not know so much (see `Field.at`).
        """
        size = sizes(self.cfg.resolution, signals.dims)
        total = math.prod(size)
        known = min(log_uniform(*self.cfg.inputs, generator), total)
        asked = log_uniform(*self.cfg.queries, generator)
        inputs = self.pattern.pick(len(signals), size, known, generator)
        on = min(asked - round(asked * self.cfg.off_lattice), total - inputs.shape[1])
        rest = others(inputs, total, on, generator)
        points, values = lattice_points(signals, size)
        anywhere = _anywhere(signals, asked - on, generator)
        off = signals.at(anywhere, size)
        at = torch.cat([inputs, rest], 1).to(signals.device)
        where, what = points[at], _rows(values, at)
        n = inputs.shape[1]
        return FieldBatch(
            input_coordinates=where[:, :n],
            input_values=what[:, :n],
            query_coordinates=torch.cat([where[:, n:], anywhere], 1),
            query_values=torch.cat([what[:, n:], off], 1),
            on_lattice=on,
        )


def log_uniform(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number in [low, high], its logarithm uniform."""
    u = float(torch.rand((), generator=generator, device=generator.device))
    # over the half-open [low, high + 1), so that the last number has its share too
    return min(high, int(low * ((high + 1) / low) ** u))


def others(chosen: Tensor, total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the numbers below ``total`` that are not in ``chosen`` [B, N]: int64 [B, count],
    uniform without replacement.

    Raises UserError when so many are not left.
    """
    if count > total - chosen.shape[1]:
        raise UserError(
            f"{count} queries beside {chosen.shape[1]} inputs need "
            f"{count + chosen.shape[1]} points, there are {total}."
        )
    drawn = torch.rand(len(chosen), total, generator=generator, device=generator.device)
    return drawn.scatter_(1, chosen.to(generator.device), -1).topk(count, dim=1).indices


def lattice_points(signals: Field, resolution: Resolution) -> tuple[Tensor, Tensor]:
    """All cell centers float32 [L, d] and the field's values there [B, L, C], in raster order."""
    values = signals.lattice(resolution)
    points = grid(resolution, signals.dims, signals.device)
    return points, values.flatten(2).transpose(1, 2)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values [B, L, C] at index [B, N] → [B, N, C]."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def _anywhere(signals: Field, count: int, generator: torch.Generator) -> Tensor:
    """Uniform coordinates float32 [B, count, d] in [-1, 1)."""
    shape = (len(signals), count, signals.dims)
    u = torch.rand(shape, generator=generator, device=generator.device)
    return (2 * u - 1).to(signals.device)


def observe(
    signals: Field, resolution: Resolution, count: int, pattern: Pattern, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Known points for measuring: coordinates [B, N, d], values [B, N, C] and which cells of the
    lattice they are, bool [B, L] in raster order."""
    size = sizes(resolution, signals.dims)
    if not 1 <= count <= math.prod(size):
        raise UserError(f"{count} known points of {math.prod(size)}: give 1 to all of them.")
    index = pattern.pick(len(signals), size, count, generator).to(signals.device)
    points, values = lattice_points(signals, size)
    known = torch.zeros(values.shape[:2], dtype=torch.bool, device=signals.device)
    return points[index], _rows(values, index), known.scatter_(1, index, True)
