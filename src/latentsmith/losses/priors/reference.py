"""What the training's latents look like: moments, main directions, some of them as they are."""

from typing import Self

import torch
from torch import Tensor, nn

from latentsmith.errors import UserError

MOST_ROWS = 4096
"""Latents kept and looked at; more change no direction worth keeping."""


class LatentReference(nn.Module):
    """Statistics of latents, flat [N, D], as buffers.

    In the full dimension, distances between distributions are blind (384 numbers of a sentence
    encoder cannot be told from standard normal ones by MMD, though their covariance has a
    quarter of the rank): `project` gives the directions in which latents differ most.

    Attributes:
        mean, std: of each number [D].
        components: main directions, orthonormal [r, D], largest first.
        rows: some of the latents [at most 4096, D].
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    scale: Tensor
    rows: Tensor

    def __init__(self, mean: Tensor, std: Tensor, components: Tensor, scale: Tensor, rows: Tensor):
        super().__init__()
        for name, value in (
            ("mean", mean), ("std", std), ("components", components), ("scale", scale),
            ("rows", rows),
        ):  # fmt: skip
            # what latents look like is not learnt, and comes from the data again
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def fit(cls, latents: Tensor, rank: int = 32) -> Self:
        """From normalized latents [N, …]. Computed in float64, kept in float32.

        Args:
            rank: main directions r, at most D and N − 1.

        Raises:
            UserError: fewer than 3 latents, or all the same.
        """
        rows = latents.flatten(1)
        if len(rows) < 3:
            raise UserError(f"a reference of {len(rows)} latents says nothing: give 3 or more")
        if len(rows) > MOST_ROWS:  # evenly spread, so that the choice depends on nothing
            rows = rows[torch.linspace(0, len(rows) - 1, MOST_ROWS).round().long()]
        x = rows.double()
        mean, std = x.mean(0), x.std(0, correction=0)
        if not bool((std > 0).any()):
            raise UserError("all reference latents are the same")
        centered = x - mean
        values, vectors = torch.linalg.eigh(centered.T @ centered / len(x))
        rank = min(rank, x.shape[1], len(x) - 1)
        scale = values[-rank:].clamp(min=0).mean().sqrt()
        components = vectors[:, -rank:].T.flip(0).contiguous()
        return cls(*(v.float() for v in (mean, std, components, scale, rows)))

    def project(self, latents: Tensor) -> Tensor:
        """Latents [n, D] in the main directions [n, r], with one scale for all: mean variance
        1 over the reference."""
        return (latents - self.mean) @ self.components.T / self.scale

    @property
    def off_standard(self) -> float:
        """(1/D) |mean|² + (1/D) |std − 1|²: how far from N(0, I) each number is by itself."""
        return float(self.mean.square().mean() + (self.std - 1).square().mean())
