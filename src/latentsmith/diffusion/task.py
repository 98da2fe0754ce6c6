"""Training a denoiser on cached latents: diffusion or flow, with or without REPA.

    z = α(t) x + σ(t) ε        x: normalized latent
    loss = mean w(t) |said_as_objective(network(z, t, y)) − target|²
           + variance_weight L_vlb      (networks that learn a variance)
           + λ(t) (mean (1 − cos) + w L_manifold)    (alignment)

All randomness comes from named streams of the context, and none depends on the latents: two arms
that differ in their latents alone see the same times, noise and dropped labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from latentsmith.losses.manifold import pooled
from latentsmith.stores.text_table import TextTable
from latentsmith.training.gradcache import GradientCache, cache_gradients
from latentsmith.training.task import Batch, Objective, StepContext, Task

FIELDS = {"text": "embedding", "pooled": "pooled", "mask": "mask"}
"""Names of a condition → of a text store's fields: token embeddings [B, L, E], of SDXL also the
whole texts' [B, P], and where there are tokens [B, L]."""
TOLD = {name: f"text/{field}" for name, field in FIELDS.items()}
"""Names of a condition → of a batch, where texts are read from a joined store."""
SIZES = "time_ids"
"""Of SDXL: image sizes [B, 6], where a batch says others than the latents'."""

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
    ``_flipped``; for conditional backbones ``label`` int64 [B], or ``text`` int64 [B] (see
    ``texts``), or, instead of both, token embeddings ``text/embedding`` [B, L, E] with
    ``text/mask`` [B, L] (SDXL: ``text/pooled`` [B, P] too, and ``time_ids`` [B, 6] for images that
    are not whole and of the latents' size); for alignment ``teacher/tokens`` [B, N, D] (and
    ``teacher/tokens_flipped``).

    Args:
        backbone: trained in place.
        config: see `DiffusionConfig`.
        normalizer: of the latents' encoder.
        teacher_dim: D of the teacher's tokens, required for alignment.
        texts: what a text-conditional backbone is told, by the batch's ``text`` (numbers of
            samples) or, with class names, by its ``label``. The backbone must know the empty prompt
            (`latentsmith.backbones.empty_prompt.EmptyPrompt`).
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
        texts: TextTable | None = None,
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
        self.texts = texts
        channels, height, width = backbone.latent_shape
        self.dimension = channels * height * width
        self._cache: GradientCache | None = None

    def objectives(self) -> list[Objective]:
        """One: backbone and alignment heads."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [Objective("denoiser", params, undecayed=self.backbone.undecayed())]

    def denoiser(self) -> Denoiser:
        """What samplers take, with the weights of this moment."""
        return Denoiser(self.backbone, self.path)

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss of one micro-batch. Parts: ``denoising`` and ``zero``, what a network that says 0
        would have got; ``variance``, ``alignment`` (of tokens) and ``manifold`` where there are
        such losses."""
        shown, flipped = self._shown(batch, ctx)
        t, teacher = shown.t, self._teacher(batch, flipped, ctx)
        taps = self.aligner.taps if self.aligner is not None and teacher is not None else ()
        out = self.backbone(shown.z, t, shown.condition, taps=taps)
        losses, zeros = self._denoising(out.sample, shown)
        total = losses.mean()
        parts = {"denoising": total.detach(), "zero": zeros.mean()}
        if out.variance is not None and self.config.variance_weight > 0:
            part = self._variance(out, shown).mean()
            total, parts["variance"] = total + self.config.variance_weight * part, part.detach()
        if self.aligner is not None:
            total = total + self._align(parts, out, t, teacher, ctx)
        return {"loss": total, **parts}

    def look_ahead(self, objective: str, micros: list[Batch], ctx: StepContext) -> None:
        """Relations between images reach across micro-batches: cache the whole batch's gradient
        at its images' vectors."""
        aligner = self.aligner
        if aligner is None or not aligner.joint or aligner.config.weight_at(ctx.progress) == 0:
            return
        with torch.no_grad():
            found = [
                self._teacher(micro, self.input.flips(micro, replace(ctx, micro=k).noise), ctx)
                for k, micro in enumerate(micros)
            ]
            teachers = torch.cat([pooled(tokens) for tokens in found if tokens is not None])

        def vectors(micro: Batch, ctx: StepContext) -> Tensor:
            shown, _ = self._shown(micro, ctx)
            out = self.backbone(shown.z, shown.t, shown.condition, taps=aligner.taps)
            count = micro[TEACHER].shape[1]
            return aligner.vectors(aligner.students(out, shown.t, count))

        def loss(vectors: Tensor) -> Tensor:
            return aligner.image_relations(vectors, teachers)

        self._cache = cache_gradients(micros, vectors, loss, ctx)

    # Input ---------------------------------------------------------------------------------------

    def _shown(self, batch: Batch, ctx: StepContext) -> tuple[_Noised, Tensor | None]:
        """What the network is shown of a training batch, and which samples are mirrored [B]."""
        flipped = self.input.flips(batch, ctx.noise)
        data, condition = self._given(batch, flipped, ctx)
        rng = ctx.noise("time")
        t = self.config.times.sample(len(data), rng, self.path, dimension=self.dimension)
        return self._noised(data, t, condition, ctx.noise("noise")), flipped

    def _given(
        self, batch: Batch, flipped: Tensor | None, ctx: StepContext
    ) -> tuple[Tensor, Condition]:
        """Normalized latents to learn [B, C, H, W], and from what, some of it dropped."""
        data, condition = self.input(batch, ctx.noise, flipped), self._condition(batch)
        drop = self._drops(len(data), ctx)
        if not condition or drop is None:
            return data, condition
        return data, mixed(drop, self.backbone.null(condition), condition)

    def _drops(self, count: int, ctx: StepContext) -> Tensor | None:
        """Whose label or text is dropped, bool [count]; None: nobody's."""
        if self.config.label_dropout == 0:
            return None
        rng = ctx.noise("labels")
        return torch.rand(count, generator=rng, device=rng.device) < self.config.label_dropout

    def _condition(self, batch: Batch) -> Condition:
        takes = self.backbone.takes
        if not takes:
            return {}
        if "label" in takes:
            if "label" not in batch:
                raise UserError(
                    "the network is conditioned on classes and the batch has no 'label': cache a "
                    "dataset with classes, or build the network without"
                )
            return {"label": batch["label"]}
        found = told(batch, self.texts)
        if SIZES in takes and SIZES in batch:
            found[SIZES] = batch[SIZES]
        return self.backbone.complete(found)

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
        parts: dict[str, Tensor],
        out: BackboneOutput,
        t: Tensor,
        teacher: Tensor | None,
        ctx: StepContext,
    ) -> Tensor:
        """Weighted alignment losses; adds them, unweighted, to ``parts``."""
        assert self.aligner is not None
        if teacher is None:
            return self.aligner.nothing()
        loss, found = self._aligned(out, t, teacher, ctx)
        parts |= found
        return self.aligner.config.weight_at(ctx.progress) * loss

    def _aligned(
        self, out: BackboneOutput, t: Tensor, teacher: Tensor, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the alignment losses, and each of them: ``alignment`` of tokens, ``manifold``."""
        assert self.aligner is not None
        students = self.aligner.students(out, t, teacher.shape[1])
        total = self.aligner.token_loss(students, teacher).mean()
        parts, manifold = {"alignment": total.detach()}, self.aligner.config.manifold
        if manifold is not None:
            relations = []
            if manifold.scope != "tokens":
                relations.append(
                    self._image_relations(self.aligner.vectors(students), teacher, ctx)
                )
            if manifold.scope != "images":
                relations.append(self.aligner.token_relations(students, teacher))
            part = torch.stack(relations).sum()
            parts["manifold"] = part.detach()
            total = total + manifold.weight * manifold.capped(part)
        return total, parts

    def _image_relations(self, vectors: Tensor, teacher: Tensor, ctx: StepContext) -> Tensor:
        assert self.aligner is not None
        if ctx.micros > 1 and self._cache is not None and torch.is_grad_enabled():
            return self._cache.surrogate(vectors, ctx.micro)
        return self.aligner.image_relations(vectors, teacher)

    # Looking at it -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Losses on fixed noise and times: every sample once in each of `DiffusionConfig.bins`
        equal shares of the training's times.

        Parts: ``loss`` (denoising only, the training's in expectation), ``zero``, ``time/k`` for
        each share from little to much noise, ``alignment`` (and ``manifold``) where the batch has
        teacher tokens.
        Nothing is mirrored, no label is dropped.
        """
        teacher = None
        if self.aligner is not None and TEACHER in batch:
            teacher = self.aligner.teacher(batch, None)
        data = self.input(batch, ctx.noise, None)
        return self._scored(data, self._condition(batch), teacher, ctx)

    def _scored(
        self, data: Tensor, condition: Condition, teacher: Tensor | None, ctx: StepContext
    ) -> dict[str, Tensor]:
        """What `validate` says of normalized latents [B, C, H, W]."""
        losses, zeros, aligned = [], [], list[dict[str, Tensor]]()
        for k in range(self.config.bins):
            shown = self._noised(
                data, self._fixed_times(k, ctx, len(data)), condition, ctx.noise(f"noise/{k}")
            )
            taps = self.aligner.taps if self.aligner is not None and teacher is not None else ()
            out = self.backbone(shown.z, shown.t, condition, taps=taps)
            loss, zero = self._denoising(out.sample, shown)
            losses.append(loss.mean())
            zeros.append(zero.mean())
            if teacher is not None:
                aligned.append(self._aligned(out, shown.t, teacher, ctx)[1])
        parts = {"loss": torch.stack(losses).mean(), "zero": torch.stack(zeros).mean()}
        parts |= {f"time/{k}": loss for k, loss in enumerate(losses, 1)}
        names = aligned[0] if aligned else {}
        return parts | {n: torch.stack([part[n] for part in aligned]).mean() for n in names}

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
        """The backbone in diffusers format. Alignment heads stay behind."""
        from latentsmith.backbones.export import save_backbone

        save_backbone(self.backbone, folder)


def told(batch: Batch, table: TextTable | None, what: str = "text") -> Condition:
    """What the batch's texts say: its own, else those of its numbers.

    Args:
        batch: ``text/embedding`` and so on (`FIELDS`), or numbers, ``text`` or ``label``.
        table: texts by number.
        what: name of the joined store whose fields are the texts, in the place of ``text``.

    Raises:
        UserError: neither is there, or a number has no text.
    """
    if f"{what}/{FIELDS['text']}" in batch:
        keys = {name: f"{what}/{field}" for name, field in FIELDS.items()}
        return {name: batch[key] for name, key in keys.items() if key in batch}
    if table is None:
        raise UserError(
            f"the network is conditioned on texts and the batch has no '{what}/embedding': join a "
            "text store (`latentsmith cache text`) to the latents"
        )
    number = batch.get("text", batch.get("label"))
    if number is None:
        raise UserError("the batch has neither 'text' nor 'label' to find its text by")
    return table.condition(number)


def mixed(rows: Tensor, yes: Condition, no: Condition) -> Condition:
    """Of each name in ``no``, ``yes`` where ``rows`` bool [B] says so, else ``no``."""
    return {
        name: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), yes[name], value)
        for name, value in no.items()
    }
