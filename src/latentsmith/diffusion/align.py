"""REPA inside a diffusion task: which tokens, which teacher, which weight."""

import torch
from torch import Tensor, nn

from latentsmith.backbones.base import Backbone, BackboneOutput
from latentsmith.diffusion.latents import FLIPPED
from latentsmith.errors import UserError
from latentsmith.losses.alignment import (
    AlignmentConfig,
    TokenProjector,
    check_tokens,
    teacher_grid,
    to_grid,
    token_cosine,
)
from latentsmith.training.task import Batch

TEACHER = "teacher/tokens"
"""The batch's teacher tokens [B, N, D], raster order, of the clean images."""


class Aligner(nn.Module):
    """Projects one block's tokens and compares them with the teacher's. Trained with the backbone,
    needed only in training: it is not exported.

    Args:
        config: see `AlignmentConfig`.
        backbone: whose tokens; only its shape is asked for.
        teacher_dim: D of the teacher's tokens.

    Raises:
        UserError: the backbone has no such block.
    """

    def __init__(self, config: AlignmentConfig, backbone: Backbone, teacher_dim: int):
        super().__init__()
        if config.block > backbone.depth:
            raise UserError(
                f"alignment.block={config.block}, and the network has {backbone.depth} blocks: "
                "choose one of the first half"
            )
        self.config, self.grid, self.teacher_dim = config, backbone.grid, teacher_dim
        self.projector = TokenProjector(
            backbone.width, teacher_dim, hidden=config.hidden, layers=config.layers
        )

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose tokens `forward` needs."""
        return (self.config.block,)

    def teacher(self, batch: Batch, flipped: Tensor | None) -> Tensor:
        """The batch's teacher tokens [B, N, D], those of the mirrored image where ``flipped``.

        Raises:
            UserError: none there, none for mirrored images, of another dimension, or damaged
                (names the sample).
        """
        if TEACHER not in batch:
            raise UserError(
                f"alignment needs the teacher's tokens, and the batch has no {TEACHER!r}: join a "
                "token store (`latentsmith cache tokens`) to the latents, or set alignment=null"
            )
        tokens = batch[TEACHER]
        if flipped is not None:
            if TEACHER + FLIPPED not in batch:
                raise UserError(
                    "the latents store holds mirrored copies and the token store does not: the "
                    "teacher's tokens would belong to another image. Cache them too, or set "
                    "diffusion.flip=false"
                )
            tokens = torch.where(flipped.view(-1, 1, 1), batch[TEACHER + FLIPPED], tokens)
        if tokens.ndim != 3 or tokens.shape[2] != self.teacher_dim:
            raise UserError(
                f"teacher tokens are {list(tokens.shape)}; the projector was built for "
                f"[B, N, {self.teacher_dim}]"
            )
        check_tokens(tokens, batch["index"], unit=self.config.unit_tokens)
        return tokens

    def forward(self, out: BackboneOutput, teacher: Tensor) -> Tensor:
        """Loss 1 − cos of each sample [B], in [0, 2].

        Args:
            out: of the backbone, with `taps`.
            teacher: [B, N, D].

        Raises:
            UserError: grids that differ when they may not.
        """
        tokens = self.projector(out.hidden[self.config.block])
        wanted = teacher_grid(teacher.shape[1], self.grid)
        if wanted != self.grid and not self.config.interpolate:
            raise UserError(
                f"the teacher's tokens form a {wanted[0]}x{wanted[1]} grid and the network's "
                f"{self.grid[0]}x{self.grid[1]}: cache the teacher at a matching resolution, or "
                "set alignment.interpolate=true"
            )
        # MLP first, then resize (Tian et al. 2025, U-REPA: the better order)
        return 1 - token_cosine(to_grid(tokens, self.grid, wanted), teacher).mean(1)

    def nothing(self) -> Tensor:
        """0, on a graph that reaches every parameter: data parallelism waits for all of them, also
        when the weight is 0."""
        return torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0
