"""Settings of the mmreg recipe. Help for each is the string under it."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.config.schema import schema
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.losses.base import PairLossConfig
from latentsmith.losses.regularizer import LOSSES, RegularizerConfig
from latentsmith.metrics.latent_card import CardConfig
from latentsmith.recipes.base import RECIPES, TrainingRecipe
from latentsmith.recipes.mmreg.generation_config import GenerationConfig
from latentsmith.registry import OneOf
from latentsmith.training.config import TrainConfig

TRAINED_REFERENCE = "encoder"
"""Name of the reference space given by ``encoder=…``; the others have names of the user's."""

PAIRS = "pairs"
"""Name of ``loss=…`` in the log when it is a loss over pairs; others go by their kind."""


@schema
class EvaluateConfig:
    """How the arms are measured, on held-out images."""

    count: Annotated[int, Field(ge=64)] = 2048
    """Held-out images measured, drawn from the split once for all."""
    probe_count: Annotated[int, Field(ge=64)] = 8192
    """Training images the linear probe learns from."""
    card: CardConfig = field(default_factory=CardConfig)
    """Protocol of the latent card: neighbours, paths, steps, bootstrap."""
    grid: Annotated[int, Field(ge=2)] = 8
    """Images per row in the report's pictures."""


def _active(loss: RegularizerConfig) -> bool:
    return loss.kind != "none" and loss.weight > 0


@RECIPES.register(
    "mmreg", help="make distances between latents follow a reference space; prove it (go/no-go)"
)
@schema
class MMRegConfig(TrainingRecipe):
    """Finetune an image autoencoder with and without manifold-matching regularisation."""

    kind: Literal["mmreg"] = "mmreg"
    transform: TransformConfig
    """From raw images to what is trained on."""
    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """Reference space the regularised arm is trained to follow."""
    more_references: dict[str, Annotated[EncoderConfig, OneOf(ENCODERS)]] = field(
        default_factory=dict
    )
    """Further reference spaces by name, measured beside the trained one."""
    terms: dict[str, float] = field(default_factory=lambda: {TRAINED_REFERENCE: 1.0})
    """Which references the pairwise loss follows, with their weights: ``{encoder: 1}`` (default),
    or a hybrid such as ``{encoder: 1, pca: 0.5}``."""
    loss: Annotated[RegularizerConfig, OneOf(LOSSES)]
    """What regularises the regularised arm: a loss over pairs, or a rival."""
    more_losses: dict[str, Annotated[RegularizerConfig, OneOf(LOSSES)]] = field(
        default_factory=dict
    )
    """Further regularisers of that arm by name, added to `loss`: ``more_losses.eq=eqvae``."""
    autoencoder: KLAutoencoderConfig
    """The autoencoder both arms start from."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Reconstruction objective of both arms."""
    pretrain: TrainConfig | None = None
    """Training of the common starting point; none for an autoencoder that is already trained."""
    finetune: TrainConfig
    """Training of each arm. Same data, order, noise and steps for both."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Measurement protocol."""
    generation: GenerationConfig
    """Stage C: what a generator makes of both arms' latents."""

    def __post_init__(self) -> None:
        known = [TRAINED_REFERENCE, *self.more_references]
        unknown = sorted(set(self.terms) - set(known))
        if TRAINED_REFERENCE in self.more_references:
            raise ValueError(
                f"more_references may not use the name {TRAINED_REFERENCE!r}, which belongs to "
                "encoder=…: choose another name"
            )
        if unknown:
            raise ValueError(
                f"terms name {', '.join(map(repr, unknown))}, but the references are "
                f"{', '.join(map(repr, known))}: add it under more_references"
            )
        if not any(weight > 0 for weight in self.terms.values()):
            raise ValueError("terms give every reference weight 0: give one a weight above 0")
        if min(self.terms.values()) < 0:
            raise ValueError("terms hold a negative weight, which would push the geometry away")
        self._check_losses()
        channels = self.autoencoder.in_channels
        if channels is not None and channels != self.transform.channels:
            raise ValueError(
                f"transform.channels is {self.transform.channels} but autoencoder.in_channels is "
                f"{channels}: set both to the same"
            )

    def _check_losses(self) -> None:
        """What the regularisers ask of the other settings. Raises ValueError."""
        losses = self.losses()
        if len(losses) < sum(map(_active, [self.loss, *self.more_losses.values()])):
            raise ValueError(
                f"more_losses may not use the name {self._main_name()!r}, under which loss="
                f"{self.loss.kind} is logged: choose another name"
            )
        pairs = any(isinstance(loss, PairLossConfig) for loss in losses.values())
        if self.finetune.batch_size < 2 and pairs:
            raise ValueError(
                "finetune.batch_size is 1, and a loss over pairs needs at least 2 samples (64 or "
                "more to be a good estimate): raise it; micro_batch keeps the memory low"
            )
        spaces = {TRAINED_REFERENCE: self.encoder, **self.more_references}
        for loss in losses.values():
            for name in loss.teachers():
                if name not in spaces:
                    raise ValueError(
                        f"loss {loss.kind} asks for the patch tokens of reference {name!r}, but "
                        f"the references are {', '.join(map(repr, spaces))}"
                    )
                if not spaces[name].gives_tokens:
                    able = [e.name for e in ENCODERS if e.config.gives_tokens]
                    raise ValueError(
                        f"loss {loss.kind} aligns with patch tokens, and {name!r} = "
                        f"{spaces[name].kind} has none: choose one of {', '.join(able)}"
                    )

    def _main_name(self) -> str:
        return PAIRS if isinstance(self.loss, PairLossConfig) else self.loss.kind

    def losses(self) -> dict[str, RegularizerConfig]:
        """Name in the log → regulariser, of all that do something; empty: the plain baseline."""
        found = {self._main_name(): self.loss, **self.more_losses}
        return {name: loss for name, loss in found.items() if _active(loss)}
