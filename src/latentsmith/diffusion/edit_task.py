"""Training one denoiser to make images from texts and to edit images by instructions.

    of a share of samples    learn the edited image, from its source and an instruction
    of the others            learn the image, from its caption, without a source

As InstructPix2Pix (Brooks et al. 2022, arXiv 2211.09800), text and source of an edit are dropped
independently, so that guidance can weigh each by itself (`latentsmith.sampling.guidance.edit`).
Which samples are edits, and what is dropped, comes from named streams of the context.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import Backbone, Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.latents import FLIPPED, LatentInput
from latentsmith.diffusion.task import DiffusionTask, Preview, mixed, told
from latentsmith.errors import UserError
from latentsmith.stores.text_table import TextTable
from latentsmith.training.task import Batch, StepContext

TARGET = "target/"
"""What the names of the edited image's latents begin with: the store joined as ``target``."""
INSTRUCTION = "instruction"
"""Name of a joined store of instructions, ``instruction/embedding``."""


@schema
class EditDiffusionConfig(DiffusionConfig):
    """What a denoiser learns from images, captions, edited images and instructions."""

    edit_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of samples that are edits; the others are images from their captions."""
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of samples, edits or not, trained without their text, for guidance."""
    source_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of edits trained without the image they edit, for guidance; independent of
    label_dropout. (InstructPix2Pix drops each from a tenth, both at once from a twentieth.)"""

    def __post_init__(self) -> None:
        if self.alignment is not None:
            raise ValueError(
                "a teacher's tokens are of the image, and an edit learns another one: leave "
                "alignment out"
            )


class EditTask(DiffusionTask):
    """Denoising loss of a backbone that also edits.

    Batches: latents of the image as `DiffusionTask`'s, and of the edited image under ``target/``
    (``target/mean`` and ``target/logvar``, or ``target/latent``, with ``_flipped`` copies where the
    image has them: source and target are mirrored together); ``text`` int64 [B], numbers of samples
    in both tables; or, in the place of a table, ``text/embedding`` and ``instruction/embedding``
    [B, L, E], with ``text/mask`` and ``instruction/mask`` [B, L].

    Args:
        backbone: trained in place; takes a ``source``, as `text_dit` does.
        config: see `EditDiffusionConfig`.
        normalizer: of the latents' encoder.
        texts: captions.
        instructions: what makes each image its edited one.
        preview: draws sample grids; None: no grids.

    Raises:
        UserError: a backbone that cannot edit, tables of other sizes.
    """

    config: EditDiffusionConfig

    def __init__(
        self,
        backbone: Backbone,
        config: EditDiffusionConfig,
        normalizer: LatentNormalizer,
        *,
        texts: TextTable | None = None,
        instructions: TextTable | None = None,
        preview: Preview | None = None,
    ):
        if not backbone.edits:
            raise UserError(
                f"a {backbone.config.kind} network is given no image to edit: use backbone=text_dit"
            )
        super().__init__(backbone, config, normalizer, texts=texts, preview=preview)
        if texts is not None and instructions is not None:
            _check_alike(texts, instructions)
        self.instructions = instructions
        self.edited = LatentInput(normalizer, config.latent, config.flip)

    # Input ---------------------------------------------------------------------------------------

    def _given(
        self, batch: Batch, flipped: Tensor | None, ctx: StepContext
    ) -> tuple[Tensor, Condition]:
        image, caption = self._making(batch, flipped, ctx)
        edited, order = self._editing(batch, flipped, ctx)
        edit = _some(len(image), self.config.edit_share, "edits", ctx)
        data = torch.where(edit.view(-1, 1, 1, 1), edited, image)
        condition = mixed(edit, order, caption)
        without = _some(len(image), self.config.source_dropout, "sources", ctx)
        condition["has_source"] = condition["has_source"] & ~without
        drop = self._drops(len(image), ctx)
        if drop is None:
            return data, condition
        return data, mixed(drop, self.backbone.null_text(condition), condition)

    def _making(
        self, batch: Batch, flipped: Tensor | None, ctx: StepContext
    ) -> tuple[Tensor, Condition]:
        """Every image, from its caption and no source."""
        image = self.input(batch, ctx.noise, flipped)
        found = told(batch, self.texts)
        return image, self._complete(batch, found, flipped, has_source=False)

    def _editing(
        self, batch: Batch, flipped: Tensor | None, ctx: StepContext
    ) -> tuple[Tensor, Condition]:
        """Every edited image, from the image and the instruction."""
        image = self.edited(_target(batch, flipped), lambda n: ctx.noise(TARGET + n), flipped)
        found = told(batch, self.instructions, INSTRUCTION)
        return image, self._complete(batch, found, flipped, has_source=True)

    def _complete(
        self, batch: Batch, found: Condition, flipped: Tensor | None, *, has_source: bool
    ) -> Condition:
        """A text's condition, with the image as ``source``: also where nobody has one, so that the
        network is the same, and so is the gradient's reach, in every step."""
        source = self.input.mode(batch, flipped)
        has = torch.full((len(source),), has_source, device=source.device)
        return self.backbone.complete(found | {"source": source, "has_source": has})

    # Looking at it -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """As `DiffusionTask.validate`, of every sample as an image from its caption and as an edit,
        on the same noise and times.

        Parts: ``text_to_image`` and ``edit``, the loss of either; ``loss``, ``zero`` and ``time/k``
        of both, weighted as training meets them.
        """
        made = self._scored(*self._making(batch, None, ctx), None, ctx)
        edited = self._scored(*self._editing(batch, None, ctx), None, ctx)
        both = {n: torch.lerp(made[n], edited[n], self.config.edit_share) for n in made}
        return both | {"text_to_image": made["loss"], "edit": edited["loss"]}


def _some(count: int, share: float, stream: str, ctx: StepContext) -> Tensor:
    """A share of samples, bool [count]."""
    rng = ctx.noise(stream)
    return torch.rand(count, generator=rng, device=rng.device) < share


def _target(batch: Batch, flipped: Tensor | None) -> Batch:
    """The edited images' part of a batch. Raises UserError when there is none, or none of the
    mirrored copies that the images have."""
    found = {name.removeprefix(TARGET): v for name, v in batch.items() if name.startswith(TARGET)}
    if not found:
        raise UserError(
            f"the batch holds {', '.join(sorted(batch))}, and no edited images: join their latents "
            "as store 'target'"
        )
    if flipped is not None and not any(name.endswith(FLIPPED) for name in found):
        raise UserError(
            "the images have mirrored copies and their edited ones do not: cache both alike, or "
            "set flip=false"
        )
    return found


def _check_alike(texts: TextTable, instructions: TextTable) -> None:
    """Raises UserError for tables that cannot stand in each other's place."""
    for name in ("null", "null_mask"):
        pair = [getattr(table, name) for table in (texts, instructions)]
        shapes = [None if value is None else list(value.shape) for value in pair]
        if shapes[0] != shapes[1]:
            what = "texts" if name == "null" else "masks"
            raise UserError(
                f"{what} of captions are {shapes[0]} and of instructions {shapes[1]}: cache both "
                "with one text encoder"
            )
