"""What networks conditioned on classes, or on nothing, share."""

from collections.abc import Collection

import torch
from torch import Tensor

from latentsmith.backbones.base import Backbone, Condition, Tap
from latentsmith.errors import UserError


class ClassConditional(Backbone):
    """A network told ``label`` int64 [B], with one class more for "no class"; or unconditional,
    where ``classes`` is None."""

    def null(self, condition: Condition) -> Condition:
        """The extra last class. See `Backbone.null`."""
        if self.classes is None:
            raise UserError(
                "this network is unconditional: it has no null condition, so neither label dropout"
                " nor guidance apply; build it with classes, or sample without guidance"
            )
        self._check_label(condition)
        return {"label": torch.full_like(condition["label"], self.classes)}

    def _check(self, z: Tensor, t: Tensor, condition: Condition, taps: Collection[Tap]) -> None:
        self.check_latents(z, t)
        if self.classes is not None:
            self._check_label(condition)
            if condition["label"].shape != z.shape[:1]:
                shape = list(condition["label"].shape)
                raise UserError(f"labels of shape {shape} for {len(z)} latents: give one each")
        elif "label" in condition:
            raise UserError(
                "labels given to an unconditional network: leave them out, or build it with classes"
            )
        self.check_taps(taps)

    def _check_label(self, condition: Condition) -> None:
        if "label" not in condition:
            raise UserError(
                f"this network was built for {self.classes} classes and got no 'label': give int64 "
                "[B], with null() where there is none"
            )


def check_classes(classes: int | None) -> None:
    """Raises UserError for a number of classes below 1."""
    if classes is not None and classes < 1:
        raise UserError(f"{classes} classes: give at least one, or None for unconditional")
