"""What every prior promises: a loss on a set of predicted latents, not on each of them.

A prior acts on T2L's prediction *before* the bridge to the text cycle: behind a stopped gradient it
would teach nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError
from latentsmith.losses.cycle.term import TermConfig
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.registry import Registry

PRIORS = Registry("prior", "latentsmith.losses.priors")

Against = Literal["batch", "data"]


@dataclass(frozen=True)
class PriorInput:
    """What a prior may look at besides the predictions.

    Attributes:
        data: true latents [n, …], a row for each prediction; of rows without one, anything.
        has: bool [n], predictions whose true latent is there.
        model: the model, for priors that ask it.
        noise: name → generator of the term's own stream.
        training: whether running statistics may move.
    """

    data: Tensor
    has: Tensor
    model: TextLatentModel
    noise: Callable[[str], torch.Generator]
    training: bool = True


@dataclass(frozen=True)
class PriorValue:
    """A prior's ``loss``, a scalar with graph, and ``parts`` to log."""

    loss: Tensor
    parts: dict[str, Tensor]


class Prior(nn.Module):
    """A loss on predicted latents.

    Attributes:
        joint: True when it is no mean over predictions, but a loss of the whole set: it is then
            given those of all processes (of one micro-batch each).
    """

    joint: bool = True

    def forward(self, guess: Tensor, seen: PriorInput) -> PriorValue:
        """guess [n, …], with graph → its value."""
        raise TypeError(f"{type(self).__name__} has no forward()")


@schema
class PriorConfig(TermConfig):
    """Base of all prior configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> Prior | None:
        """The prior; None: there is none.

        Args:
            reference: statistics of the training's latents, for priors that need them.
            model: the one that is trained.

        Raises:
            UserError: no ``reference`` where one is needed, or one it cannot work with.
        """
        raise TypeError(f"{type(self).__name__} has no build()")


def needed(reference: LatentReference | None, what: str) -> LatentReference:
    """The reference. Raises UserError when there is none."""
    if reference is None:
        raise UserError(
            f"{what} compares with the training's latents, and none were given: pass "
            "reference=LatentReference.fit(latents) to the task"
        )
    return reference


def paired(guess: Tensor, seen: PriorInput) -> tuple[Tensor, Tensor]:
    """Predictions and true latents [m, D] of the rows that have both, flat."""
    if bool(seen.has.all()):
        return guess.flatten(1), seen.data.flatten(1)
    rows = seen.has.nonzero().squeeze(1)
    return guess.flatten(1)[rows], seen.data.flatten(1)[rows]


def against(
    guess: Tensor, seen: PriorInput, which: Against, reference: LatentReference, stream: str
) -> tuple[Tensor, Tensor]:
    """Equally many predictions and true latents [m, D], flat: of this batch, or drawn from the
    reference's rows."""
    if which == "batch":
        return paired(guess, seen)
    bank = reference.rows
    rng = seen.noise(stream)
    chosen = torch.randint(len(bank), (len(guess),), generator=rng, device=rng.device)
    return guess.flatten(1), bank[chosen.to(bank.device)].to(guess)
