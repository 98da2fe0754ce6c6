"""Training a denoiser on cached latents: diffusion or flow, with or without REPA.

    z = α(t) x + σ(t) ε        x: normalized latent
    loss = mean w(t) |said_as_objective(network(z, t, y)) − target|²
           + variance_weight L_vlb      (networks that learn a variance)
           + λ mean (1 − cos)           (alignment)

All randomness comes from named streams of the context, and none depends on the latents: two arms
that differ in their latents alone see the same times, noise and dropped labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath

import torch
from torch import Tensor

from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import Backbone, BackboneOutput, Condition
from latentsmith.diffusion.align import TEACHER, Aligner
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.latents import LatentInput
from latentsmith.diffusion.objective import check_ends, denoising_losses, target_of, weights
from latentsmith.diffusion.parametrization import convert
from latentsmith.diffusion.variational import bound
from latentsmith.diffusion.vp import VPPath
from latentsmith.errors import UserError
from latentsmith.training.task import Batch, Objective, StepContext, Task

Preview = Callable[[Denoiser, Batch, StepContext], Tensor | None]
"""(denoiser, held-out batch, context) → images [N, C, H, W] in [0, 1] worth looking at."""


@dataclass(frozen=True)
class _Noised:
    """What the network is shown and should have said, B samples."""

    data: Tensor
    noise: Tensor
    t: Tensor
    z: Tensor
    condition: Condition


class DiffusionTask(Task):
    """Denoising loss of a backbone on batches of a latents store.

    Batches: raw ``mean`` and ``logvar``, or ``latent`` [B, C, H, W], any of them also with
    ``_flipped``; ``label`` int64 [B] for conditional backbones; ``teacher/tokens`` [B, N, D] (and
    ``teacher/tokens_flipped``) for alignment.

    Args:
        backbone: trained in place.
        config: see `DiffusionConfig`.
        normalizer: of the latents' encoder.
        teacher_dim: D of the teacher's tokens, required for alignment.
        preview: draws sample grids; None: no grids.

    Raises:
        UserError: settings that cannot work together.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: DiffusionConfig,
        normalizer: LatentNormalizer,
        *,
        teacher_dim: int | None = None,
        preview: Preview | None = None,
    ):
        super().__init__()
        self.config, self.path, self.preview = config, config.path.build(), preview
        times = config.times
        check_ends(self.path, backbone.predicts, config.objective, times.low, times.high)
        self.backbone = backbone
        self.aligner: Aligner | None = None
        if config.alignment is not None:
            if teacher_dim is None:
                raise ValueError("alignment needs teacher_dim, the width of the teacher's tokens")
            self.aligner = Aligner(config.alignment, backbone, teacher_dim)
        self.input = LatentInput(normalizer, config.latent, config.flip)
        self.conditional = _has_null(backbone)
        channels, height, width = backbone.latent_shape
        self.dimension = channels * height * width

    def objectives(self) -> list[Objective]:
        """One: backbone and projector."""
        return [Objective("denoiser", list(self.parameters()))]

    def denoiser(self) -> Denoiser:
        """What samplers take, with the weights of this moment."""
        return Denoiser(self.backbone, self.path)

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss of one micro-batch. Parts: ``denoising`` and ``zero``, what a network that says 0
        would have got; ``variance`` and ``alignment`` where there are such losses."""
        flipped = self.input.flips(batch, ctx.noise)
        data = self.input(batch, ctx.noise, flipped)
        rng = ctx.noise("time")
        t = self.config.times.sample(len(data), rng, self.path, dimension=self.dimension)
        condition = self._dropped(self._condition(batch), ctx)
        shown = self._noised(data, t, condition, ctx.noise("noise"))
        teacher = self._teacher(batch, flipped, ctx)
        taps = self.aligner.taps if self.aligner is not None and teacher is not None else ()
        out = self.backbone(shown.z, t, condition, taps=taps)
        losses, zeros = self._denoising(out.sample, shown)
        total = losses.mean()
        parts = {"denoising": total.detach(), "zero": zeros.mean()}
        if out.variance is not None and self.config.variance_weight > 0:
            part = self._variance(out, shown).mean()
            total, parts["variance"] = total + self.config.variance_weight * part, part.detach()
        if self.aligner is not None:
            total = self._align(total, parts, out, teacher, ctx)
        return {"loss": total, **parts}

    # Input ---------------------------------------------------------------------------------------

    def _condition(self, batch: Batch) -> Condition:
        if not self.conditional:
            return {}
        if "label" not in batch:
            raise UserError(
                "the network is conditioned on classes and the batch has no 'label': cache a "
                "dataset with classes, or build the network without"
            )
        return {"label": batch["label"]}

    def _dropped(self, condition: Condition, ctx: StepContext) -> Condition:
        """The condition with some samples' replaced by nothing."""
        if not condition or self.config.label_dropout == 0:
            return condition
        rng, null = ctx.noise("labels"), self.backbone.null(condition)
        first = next(iter(condition.values()))
        drop = torch.rand(len(first), generator=rng, device=rng.device) < self.config.label_dropout
        return {
            name: torch.where(drop.view(-1, *[1] * (value.ndim - 1)), null[name], value)
            for name, value in condition.items()
        }

    def _noised(
        self, data: Tensor, t: Tensor, condition: Condition, rng: torch.Generator
    ) -> _Noised:
        noise = torch.randn(data.shape, generator=rng, device=data.device)
        return _Noised(data, noise, t, self.path.mix(data, noise, t), condition)

    def _teacher(self, batch: Batch, flipped: Tensor | None, ctx: StepContext) -> Tensor | None:
        """The teacher's tokens while they have weight."""
        if self.aligner is None or self.aligner.config.weight_at(ctx.progress) == 0:
            return None
        return self.aligner.teacher(batch, flipped)

    # Losses --------------------------------------------------------------------------------------

    def _denoising(self, output: Tensor, shown: _Noised) -> tuple[Tensor, Tensor]:
        """Weighted loss of each sample, and that of the prediction 0, both [B]."""
        c, t = self.config, shown.t
        target = target_of(shown.data, shown.noise, t, self.path, c.objective)
        w = weights(t, self.path, c.objective, c.weighting, c.gamma).to(target)
        losses = denoising_losses(
            output, target, shown.z, t, self.path, self.backbone.predicts, c.objective
        )
        return w * losses, w * target.square().flatten(1).mean(1)

    def _variance(self, out: BackboneOutput, shown: _Noised) -> Tensor:
        """L_vlb, estimated from each sample [B]."""
        assert out.variance is not None
        if not isinstance(self.path, VPPath):
            raise UserError(
                "the network also puts out a variance, which is that of a DDPM schedule's steps: "
                "use path=vp, build the network with learn_sigma=false, or set variance_weight=0"
            )
        sample = out.sample.detach()
        predicts = self.backbone.predicts
        data = convert(sample, shown.z, shown.t, self.path, predicts, "data", check=False)
        return bound(data, out.variance, shown.data, shown.z, shown.t, self.path)

    def _align(
        self,
        total: Tensor,
        parts: dict[str, Tensor],
        out: BackboneOutput,
        teacher: Tensor | None,
        ctx: StepContext,
    ) -> Tensor:
        """``total`` plus the alignment loss; adds it to ``parts``."""
        assert self.aligner is not None
        if teacher is None:
            return total + self.aligner.nothing()
        part = self.aligner(out, teacher).mean()
        parts["alignment"] = part.detach()
        return total + self.aligner.config.weight_at(ctx.progress) * part

    # Looking at it -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Losses on fixed noise and times: every sample once in each of `DiffusionConfig.bins`
        equal shares of the training's times.

        Parts: ``loss`` (denoising only, the training's in expectation), ``zero``, ``time/k`` for
        each share from little to much noise, ``alignment`` where the batch has teacher tokens.
        Nothing is mirrored, no label is dropped.
        """
        data, condition = self.input(batch, ctx.noise, None), self._condition(batch)
        teacher = None
        if self.aligner is not None and TEACHER in batch:
            teacher = self.aligner.teacher(batch, None)
        losses, zeros, aligned = [], [], []
        for k in range(self.config.bins):
            shown = self._noised(
                data, self._fixed_times(k, ctx, len(data)), condition, ctx.noise(f"noise/{k}")
            )
            taps = self.aligner.taps if self.aligner is not None and teacher is not None else ()
            out = self.backbone(shown.z, shown.t, condition, taps=taps)
            loss, zero = self._denoising(out.sample, shown)
            losses.append(loss.mean())
            zeros.append(zero.mean())
            if self.aligner is not None and teacher is not None:
                aligned.append(self.aligner(out, teacher).mean())
        parts = {"loss": torch.stack(losses).mean(), "zero": torch.stack(zeros).mean()}
        parts |= {f"time/{k}": loss for k, loss in enumerate(losses, 1)}
        return parts | ({"alignment": torch.stack(aligned).mean()} if aligned else {})

    def _fixed_times(self, k: int, ctx: StepContext, n: int) -> Tensor:
        """n times evenly over the k-th share, in a fixed random order: held-out batches may be
        sorted by class. Float32 [n]."""
        rng = ctx.noise(f"time/{k}")
        place = torch.randperm(n, generator=rng, device=rng.device)
        u = (k + (place + 0.5) / n) / self.config.bins
        t = self.config.times.quantile(u, dimension=self.dimension)
        return self.path.on_grid(t).float()

    @torch.no_grad()
    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor | None:
        """What ``preview`` draws."""
        return None if self.preview is None else self.preview(self.denoiser(), batch, ctx)

    def save_pretrained(self, folder: FilePath) -> None:
        """The backbone in diffusers format. The projector stays behind."""
        from latentsmith.backbones.export import save_backbone

        save_backbone(self.backbone, folder)


def _has_null(backbone: Backbone) -> bool:
    """Whether the backbone is conditional: only then is there a condition that says nothing."""
    try:
        backbone.null({"label": torch.zeros(1, dtype=torch.int64)})
    except UserError:
        return False
    return True
