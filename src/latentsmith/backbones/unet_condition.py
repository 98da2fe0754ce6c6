"""What a Stable Diffusion U-Net is conditioned on: texts, and in XL their pooled embedding and the
image's sizes. Keeps the empty prompt's embedding, the condition that says nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.backbones.empty_prompt import EmptyPrompt
from latentsmith.errors import UserError

TIME_IDS = 6
"""Numbers SDXL is told of an image: original height and width, top and left of the crop, target
height and width, in pixels."""

POOLS = "cache texts with text_encoder=sdxl_text and text_encoder.output=sequence"
"""How to get SDXL's pooled embeddings."""


class TextCondition(EmptyPrompt):
    """Shapes of the conditions of one U-Net, and its empty prompt.

    Args:
        unet: a ``UNet2DConditionModel``.
        length: positions L of the empty prompt.

    Attributes:
        width: E of ``text`` [B, L, E]; L is any in a pass.
        pooled: P of ``pooled`` [B, P] (SDXL), else None.
        names: of the conditions it takes.
    """

    def __init__(self, unet: Any, length: int):
        config, pooled = unet.config, None
        names = ["text"]
        if config.addition_embed_type == "text_time":
            sizes = TIME_IDS * config.addition_time_embed_dim
            pooled = config.projection_class_embeddings_input_dim - sizes
            names += ["pooled", "time_ids"]
        super().__init__(length, config.cross_attention_dim, pooled)
        self.names = names

    def set_null(self, text: Tensor, pooled: Tensor | None = None) -> None:
        """Keep the empty prompt's embedding; it is saved with the network.

        Args:
            text: [L, E], the last row of a text store.
            pooled: [P], SDXL only.

        Raises:
            UserError: of another shape, or not finite.
        """
        given = {"text": (text, self.null_text)}
        if self.null_pooled is not None and pooled is None:
            raise UserError(
                "the empty prompt's pooled embedding is missing, and SDXL's U-Net takes one of "
                f"{list(self.null_pooled.shape)}: {POOLS}"
            )
        if self.null_pooled is not None and pooled is not None:
            given["pooled"] = (pooled, self.null_pooled)
        self._keep(given)

    def nothing(self, count: int, sides: Sequence[int], device: torch.device) -> Condition:
        """The empty prompt for each of ``count`` samples of (height, width) pixels ``sides``."""
        condition = {"text": self.null_text.to(device).expand(count, -1, -1)}
        if self.null_pooled is not None:
            condition["pooled"] = self.null_pooled.to(device).expand(count, -1)
        return self.null(self.complete(condition, sides))

    def complete(self, condition: Condition, sides: Sequence[int]) -> Condition:
        """The condition of B samples with, of SDXL and where it has none, ``time_ids`` [B, 6]: of
        uncropped images of (height, width) pixels ``sides``, which is also the size they had.
        Without a ``mask``: these U-Nets were trained to attend to padding.

        Raises:
            UserError: a part is missing or unknown.
        """
        condition = {name: value for name, value in condition.items() if name != "mask"}
        if self.pooled is not None and "time_ids" not in condition and "text" in condition:
            text = condition["text"]
            sizes = torch.tensor([*sides, 0, 0, *sides], device=text.device)
            condition = condition | {"time_ids": sizes.expand(len(text), -1)}
        self.check_names(condition)
        return condition

    def null(self, condition: Condition) -> Condition:
        """The empty prompt for each of B samples; ``time_ids`` say nothing of the text and stay.

        Raises:
            UserError: no embedding was kept, or one of another length than the condition's.
        """
        self.check_names(condition)
        null = {"text": self._repeated(condition["text"])}
        if self.null_pooled is not None:
            null["pooled"] = self.null_pooled.to(condition["pooled"]).expand_as(condition["pooled"])
            null["time_ids"] = condition["time_ids"]
        return null

    def check(self, condition: Condition, count: int) -> None:
        """Raises UserError for a condition that is not one of ``count`` samples."""
        self.check_names(condition)
        self._check_text(condition, count)
        ends = {"pooled": self.pooled, "time_ids": TIME_IDS}
        for name, end in ends.items():
            if name in condition and tuple(condition[name].shape) != (count, end):
                raise UserError(
                    f"{name} of shape {list(condition[name].shape)} for {count} latents: this "
                    f"U-Net takes [{count}, {end}]"
                )

    def check_names(self, condition: Condition) -> None:
        """Raises UserError for a part that is missing or unknown."""
        missing = [name for name in self.names if name not in condition]
        other = [name for name in condition if name not in self.names]
        if missing or other:
            how = f", the whole text's vector: {POOLS}" if missing[:1] == ["pooled"] else ""
            raise UserError(
                f"this U-Net is conditioned on {', '.join(self.names)}: the condition "
                + (f"has no {missing[0]!r}" if missing else f"also has {other[0]!r}")
                + how
            )

    def arguments(self, condition: Condition, dtype: torch.dtype) -> dict[str, Any]:
        """What diffusers' ``forward`` calls them, in the dtype it computes in."""
        arguments: dict[str, Any] = {"encoder_hidden_states": condition["text"].to(dtype)}
        if self.pooled is not None:
            arguments["added_cond_kwargs"] = {
                "text_embeds": condition["pooled"].to(dtype),
                "time_ids": condition["time_ids"],
            }
        return arguments
