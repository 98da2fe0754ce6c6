"""The empty prompt's embeddings, which text-conditional networks keep: the condition that says
nothing, for condition dropout and guidance."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from latentsmith.backbones.base import Condition
from latentsmith.errors import UserError


class EmptyPrompt(nn.Module):
    """Embeddings of the empty prompt, saved with the network whose submodule this is.

    Args:
        length: positions L of ``null_text`` [L, E].
        width: E of ``text`` [B, L, E].
        pooled: P of ``null_pooled`` [P]; None: the network is told no pooled embedding.
    """

    null_text: Tensor
    null_pooled: Tensor | None

    def __init__(self, length: int, width: int, pooled: int | None = None):
        super().__init__()
        self.width, self.pooled = width, pooled
        # NaN: not told yet. Of a fixed shape, so that checkpoints with and without it fit
        self.register_buffer("null_text", torch.full((length, width), torch.nan))
        kept = None if pooled is None else torch.full((pooled,), torch.nan)
        self.register_buffer("null_pooled", kept)
        self._told = False

    @torch.no_grad()
    def _keep(self, given: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Copy values into buffers, all of them or none; name → (value, buffer). Raises UserError
        for a value of another shape, or not finite."""
        for name, (value, kept) in given.items():
            if value.shape != kept.shape or not bool(value.isfinite().all()):
                raise UserError(
                    f"the empty prompt's {name} embedding is {list(value.shape)} and this network "
                    f"takes {list(kept.shape)}, finite: cache texts with the text encoder the "
                    "network is for, or set text_length"
                )
        for value, kept in given.values():
            kept.copy_(value)

    def _repeated(self, text: Tensor) -> Tensor:
        """The empty prompt for each of the texts [B, L, E], in their dtype. Raises UserError when
        none was kept, or one of another length."""
        # asked once: it waits for the device
        self._told = self._told or not bool(self.null_text.isnan().any())
        if not self._told:
            raise UserError(
                "this network knows no empty prompt, so neither condition dropout nor guidance "
                "apply: give set_null the last row of the text store"
            )
        if text.shape[1:] != self.null_text.shape:
            raise UserError(
                f"texts are {list(text.shape[1:])} and the kept empty prompt is "
                f"{list(self.null_text.shape)}: take both from one text store"
            )
        return self.null_text.to(text).expand_as(text)

    def _check_text(self, condition: Condition, count: int) -> None:
        """Raises UserError for texts that are not [count, L, width]."""
        text = condition["text"]
        if text.ndim != 3 or len(text) != count or text.shape[2] != self.width:
            raise UserError(
                f"texts of shape {list(text.shape)} for {count} latents: this network takes "
                f"[{count}, L, {self.width}]"
            )
