"""What a text-conditional transformer is told: a text with its mask, and the image to edit. Keeps
the empty prompt, the text that says nothing."""

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.backbones.empty_prompt import EmptyPrompt
from latentsmith.errors import UserError

UNTOLD = ("pooled", "time_ids")
"""What text stores hold for SDXL's U-Net, and these networks do not take."""


class EditCondition(EmptyPrompt):
    """Shapes of the conditions of one network, and its empty prompt.

    ``text`` [B, L, E]; ``mask`` [B, L], bool or integers, 1 where there is a token, or floats, how
    much each counts (without it, all positions count); ``source`` [B, C, H, W], normalized latents
    of the image to edit, and ``has_source`` [B], which samples have one (without it, all).

    Args:
        length: positions L of the empty prompt.
        width: E.
        latent_shape: (C, H, W) of a source.
    """

    NAMES = ("text", "mask", "source", "has_source")

    null_mask: Tensor

    def __init__(self, length: int, width: int, latent_shape: tuple[int, int, int]):
        super().__init__(length, width)
        self.latent_shape = latent_shape
        self.register_buffer("null_mask", torch.ones(length, dtype=torch.bool))

    def set_null(self, text: Tensor, mask: Tensor | None = None) -> None:
        """Keep the empty prompt's embedding; it is saved with the network.

        Args:
            text: [L, E], the last row of a text store (`TextTable.null`).
            mask: [L], of the same row (`TextTable.null_mask`); None: all positions count.

        Raises:
            UserError: of another shape, or not finite.
        """
        mask = torch.ones_like(self.null_mask) if mask is None else mask.bool()
        self._keep({"text": (text, self.null_text), "mask": (mask, self.null_mask)})

    def nothing(self, count: int, device: torch.device) -> Condition:
        """The empty prompt for each of ``count`` samples, without a source. Raises UserError when
        none was kept."""
        text = self.null_text.to(device).expand(count, -1, -1)
        mask = self.null_mask.to(device).expand(count, -1)
        return self.null({"text": text, "mask": mask})

    def complete(self, condition: Condition) -> Condition:
        """The condition with ``has_source`` where it has a source and does not say whose, without
        what text stores hold for other networks. Raises UserError for parts that are missing or
        unknown."""
        condition = {name: value for name, value in condition.items() if name not in UNTOLD}
        self.check_names(condition)
        if "source" in condition and "has_source" not in condition:
            source = condition["source"]
            every = torch.ones(len(source), dtype=torch.bool, device=source.device)
            condition["has_source"] = every
        return condition

    def null(self, condition: Condition) -> Condition:
        """The empty prompt and no source for each of B samples, under the same names.

        Raises:
            UserError: no empty prompt was kept, or one of another length than the condition's; a
                source without ``has_source`` (see `complete`).
        """
        null = self.null_text_of(condition)
        if "source" in null:
            if "has_source" not in null:
                raise UserError(
                    "the condition has a source and no 'has_source' [B] to say that it is gone: "
                    "take what the network's complete() makes of it"
                )
            null["source"] = torch.zeros_like(null["source"])
            null["has_source"] = torch.zeros_like(null["has_source"])
        return null

    def null_text_of(self, condition: Condition) -> Condition:
        """The empty prompt for each of B samples; their sources stay. Raises UserError when no
        empty prompt was kept, or one of another length."""
        self.check_names(condition)
        null = condition | {"text": self._repeated(condition["text"])}
        if "mask" in condition:
            given = condition["mask"]
            null["mask"] = self.null_mask.to(given).expand_as(given)
        return null

    def check(self, condition: Condition, count: int) -> None:
        """Raises UserError for a condition that is not one of ``count`` samples."""
        self.check_names(condition)
        self._check_text(condition, count)
        wanted = {
            "mask": tuple(condition["text"].shape[:2]),
            "source": (count, *self.latent_shape),
            "has_source": (count,),
        }
        for name, shape in wanted.items():
            if name in condition and tuple(condition[name].shape) != shape:
                raise UserError(
                    f"{name} of shape {list(condition[name].shape)} for {count} latents: this "
                    f"network takes {list(shape)}"
                )

    def check_names(self, condition: Condition) -> None:
        """Raises UserError for a part that is missing or unknown."""
        other = [name for name in condition if name not in self.NAMES]
        if "text" not in condition or other:
            raise UserError(
                f"this network is conditioned on text, with or without {', '.join(self.NAMES[1:])}:"
                " the condition "
                + ("has no 'text'" if "text" not in condition else f"also has {other[0]!r}")
            )
        if "has_source" in condition and "source" not in condition:
            raise UserError("the condition says which samples have a source, and has no 'source'")
