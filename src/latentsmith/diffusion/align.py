"""REPA and U-REPA inside a diffusion task: which tokens, which teacher, which weight.

    L = λ(t) [ mean (1 − cos(h_φ(h), y)) + w L_manifold(h_φ(h), y) ]

of each aligned block, averaged over blocks. h_φ: `latentsmith.diffusion.align_head`; the losses:
`latentsmith.losses.alignment`, `latentsmith.losses.manifold`.
"""

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsmith.backbones.base import Backbone, BackboneOutput, Tap
from latentsmith.backbones.export import check_state
from latentsmith.config.schema import schema
from latentsmith.diffusion.align_head import Activation, TimeShift, TokenProjector
from latentsmith.diffusion.latents import FLIPPED
from latentsmith.errors import UserError
from latentsmith.losses.alignment import check_tokens, teacher_grid, to_grid, token_cosine
from latentsmith.losses.manifold import ManifoldConfig, pooled, relations, token_relations
from latentsmith.training.task import Batch
from latentsmith.utils.files import atomic_path, write_json

SETTINGS = "alignment.json"
WEIGHTS = "alignment.safetensors"
FORMAT = 1

TEACHER = "teacher/tokens"
"""The batch's teacher tokens [B, N, D], raster order, of the clean images."""


@schema
class AlignmentConfig:
    """REPA and U-REPA: pull tokens inside a denoiser towards a teacher's."""

    weight: Annotated[float, Field(gt=0)] = 0.5
    """Factor of the alignment losses beside the denoising loss (λ)."""
    blocks: Annotated[list[int | str], Field(min_length=1)] = field(default_factory=lambda: [8])
    """Where tokens are aligned, each with a head of its own: blocks counted from 1 (REPA: 8 of 28
    for SiT-XL, 4 of 12 for SiT-B), or names of a U-Net's places (U-REPA: mid)."""
    hidden: Annotated[int, Field(ge=1)] | None = 2048
    """Hidden width of the head; null: the teacher's."""
    layers: Annotated[int, Field(ge=1)] = 3
    """Linear layers of the head."""
    activation: Activation = "silu"
    """Between the head's layers: silu (REPA), gelu."""
    last_bias: bool = True
    """Whether the head's last layer has a bias."""
    time_head: bool = False
    """Let the time scale and shift the head's output (U-REPA's time-aware MLP)."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the run over which the weight rises linearly from 0. 0: full from the start."""
    final: Annotated[float, Field(ge=0)] = 1.0
    """Weight at the end over `weight`; it changes linearly over the run."""
    stop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the run after which the weight is 0. Below 1: alignment helps early, and the
    generator is left to itself at the end."""
    interpolate: bool = True
    """When the grids differ, resize the *network's* projected tokens to the teacher's grid
    (bilinear); the teacher is never shrunk. False: differing grids are an error."""
    unit_tokens: bool = False
    """Demand teacher tokens of length 1, as token stores hold them. The loss needs only that none
    is zero."""
    manifold: ManifoldConfig | None = None
    """U-REPA: relations follow the teacher's too. null: single tokens only (REPA)."""

    def __post_init__(self) -> None:
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"alignment.blocks {self.blocks} names a block twice")

    def weight_at(self, progress: float) -> float:
        """The weight when the fraction ``progress`` of the run is done."""
        if self.stop < 1 and progress >= self.stop:
            return 0.0
        risen = 1.0 if self.ramp == 0 else min(progress / self.ramp, 1.0)
        return self.weight * risen * (1 + (self.final - 1) * progress)


class Aligner(nn.Module):
    """Projects tokens of some blocks and compares them with the teacher's. Trained with the
    backbone, no part of it: a saved generator keeps it beside.

    Args:
        config: see `AlignmentConfig`.
        backbone: whose tokens; only its shape is asked for.
        teacher_dim: D of the teacher's tokens.

    Raises:
        UserError: the backbone has no such block.
    """

    def __init__(self, config: AlignmentConfig, backbone: Backbone, teacher_dim: int):
        super().__init__()
        for block in config.blocks:
            if isinstance(block, int) and not 1 <= block <= backbone.depth:
                raise UserError(
                    f"alignment.blocks has {block}, and the network's blocks are 1 … "
                    f"{backbone.depth}: choose one of the first half"
                )
        self.config, self.teacher_dim = config, teacher_dim
        shapes = [backbone.tap_shape(block) for block in config.blocks]
        self.grids = [grid for _, grid in shapes]
        self.heads = nn.ModuleList(
            TokenProjector(
                width,
                teacher_dim,
                hidden=config.hidden or teacher_dim,
                layers=config.layers,
                activation=config.activation,
                last_bias=config.last_bias,
                seed=number,
            )
            for number, (width, _) in enumerate(shapes)
        )
        times = config.blocks if config.time_head else []
        self.times = nn.ModuleList(TimeShift(teacher_dim, seed=n) for n, _ in enumerate(times))

    def save(self, folder: Path | str) -> Path:
        """Write ``alignment.safetensors`` and ``alignment.json`` (the settings, the teacher's
        dimension) into ``folder``."""
        folder = Path(folder)
        about = {"format": FORMAT, "teacher_dim": self.teacher_dim}
        with atomic_path(folder / WEIGHTS) as tmp:
            save_file({k: v.cpu().contiguous() for k, v in self.state_dict().items()}, tmp)
        write_json(folder / SETTINGS, about | {"config": asdict(self.config)})
        return folder

    @classmethod
    def load(cls, folder: Path | str, backbone: Backbone) -> "Aligner":
        """What `save` wrote, on the CPU, in evaluation mode.

        Raises:
            UserError: missing, damaged, of another format, or heads of another network.
        """
        folder = Path(folder)
        for name in (SETTINGS, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} holds no alignment heads: it has no {name}. Give the folder of a "
                    "generator that was trained with alignment"
                )
        try:
            about = json.loads((folder / SETTINGS).read_text())
            if about["format"] != FORMAT:
                raise UserError(
                    f"{folder / SETTINGS} has format {about['format']}, and this version of "
                    f"latentsmith reads {FORMAT}: read it with the version that wrote it"
                )
            config = TypeAdapter(AlignmentConfig).validate_python(about["config"])
            teacher_dim, state = int(about["teacher_dim"]), load_file(folder / WEIGHTS)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise UserError(
                f"the alignment heads in {folder} are damaged ({first}): save the generator again"
            ) from error
        aligner = cls(config, backbone, teacher_dim)
        expected = {k: tuple(v.shape) for k, v in aligner.state_dict().items()}
        check_state(expected, state, f"the alignment heads in {folder}")
        aligner.load_state_dict(state)
        return aligner.eval()

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Blocks whose tokens `students` needs."""
        return tuple(self.config.blocks)

    @property
    def joint(self) -> bool:
        """Whether there is a loss of the whole batch: relations between its images."""
        manifold = self.config.manifold
        return manifold is not None and manifold.scope != "tokens"

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
                f"teacher tokens are {list(tokens.shape)}; the heads were built for "
                f"[B, N, {self.teacher_dim}]"
            )
        check_tokens(tokens, batch["index"], unit=self.config.unit_tokens)
        return tokens

    def check_tap(self, tap: Tap) -> None:
        """Raises UserError unless the block ``tap`` is aligned."""
        if tap not in self.config.blocks:
            raise UserError(
                f"block {tap!r} has no alignment head: this generator's are on "
                f"{', '.join(map(repr, self.config.blocks))}"
            )

    def project(self, tap: Tap, tokens: Tensor, t: Tensor) -> Tensor:
        """Tokens of the aligned block ``tap`` [B, N, width], seen at times t [B], where they are
        compared with the teacher's: [B, N, D], on the network's own grid.

        Raises:
            UserError: the block is not aligned.
        """
        self.check_tap(tap)
        number = self.config.blocks.index(tap)
        tokens = self.heads[number](tokens)
        return self.times[number](tokens, t) if self.config.time_head else tokens

    def students(self, out: BackboneOutput, t: Tensor, count: int) -> list[Tensor]:
        """Each aligned block's projected tokens [B, ``count``, D] on the teacher's grid.

        Args:
            out: of the backbone, with `taps`.
            t: times [B] the backbone saw.
            count: tokens of the teacher.

        Raises:
            UserError: grids that differ when they may not.
        """
        found = []
        for tap, grid in zip(self.taps, self.grids, strict=True):
            tokens = self.project(tap, out.hidden[tap], t)
            wanted = teacher_grid(count, grid)
            if wanted != grid and not self.config.interpolate:
                raise UserError(
                    f"the teacher's tokens form a {wanted[0]}x{wanted[1]} grid and the network's "
                    f"{grid[0]}x{grid[1]}: cache the teacher at a matching resolution, or set "
                    "alignment.interpolate=true"
                )
            # MLP first, then resize (Tian et al. 2025, U-REPA: the better order)
            found.append(to_grid(tokens, grid, wanted))
        return found

    def token_loss(self, students: list[Tensor], teacher: Tensor) -> Tensor:
        """1 − cos of each sample [B], in [0, 2], mean over tokens and blocks. Teacher [B, N, D]."""
        losses = [1 - token_cosine(tokens, teacher).mean(1) for tokens in students]
        return torch.stack(losses).mean(0)

    def vectors(self, students: list[Tensor]) -> Tensor:
        """Each image as a unit vector for each block [B, blocks, D]: what `image_relations`
        compares."""
        return torch.stack([pooled(tokens) for tokens in students], dim=1)

    def image_relations(self, vectors: Tensor, teacher: Tensor) -> Tensor:
        """Scalar before its weight, over the global batch.

        Args:
            vectors: `vectors` [B, blocks, D].
            teacher: tokens [B, N, D], or their pooled vectors [B, D].
        """
        target = pooled(teacher) if teacher.ndim == 3 else teacher
        return torch.stack([relations(v, target) for v in vectors.unbind(1)]).mean()

    def token_relations(self, students: list[Tensor], teacher: Tensor) -> Tensor:
        """Scalar before its weight: relations within each image."""
        losses = [token_relations(tokens, teacher).mean() for tokens in students]
        return torch.stack(losses).mean()

    def nothing(self) -> Tensor:
        """0, on a graph that reaches every parameter: data parallelism waits for all of them, also
        when the weight is 0."""
        return torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0
