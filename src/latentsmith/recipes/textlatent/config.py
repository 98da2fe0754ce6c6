"""Settings of the textlatent recipe. Help for each is the string under it."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.backbones.text_inverter import Order, TextInverterConfig
from latentsmith.config.schema import schema
from latentsmith.data.text.base import CORPORA, CorpusConfig
from latentsmith.data.text.importer import ImportConfig
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.data.text.pairs import PairingConfig
from latentsmith.data.text.tokens import TOKENS, TokensConfig
from latentsmith.diffusion.text_latent.config import TextLatentConfig
from latentsmith.encoders.text import TEXT_ENCODERS, TextEncoderConfig
from latentsmith.recipes.base import RECIPES, TrainingRecipe
from latentsmith.registry import OneOf
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
from latentsmith.training.config import TrainConfig

Arm = Literal["base", "cycles"]


@schema
class BaselinesConfig:
    """What the model is compared with, in the same table."""

    trained: list[Order] = dataclasses.field(default_factory=lambda: ["autoregressive", "one_shot"])
    """Decoders of the model's size from latent to text that are trained too; []: none."""
    inverter: TextInverterConfig = dataclasses.field(default_factory=TextInverterConfig)
    """Their settings; order and depth follow from the above."""
    train: TrainConfig | None = None
    """Length, batch, optimizer of each; null: as the model's."""
    linear: bool = True
    """Also tokens linear in the latent: takes 4 L (D + 1) V bytes."""
    pool: Annotated[int, Field(ge=1)] | None = None
    """Training texts that nearest neighbors are found among; null: all."""
    bag_tokens: Annotated[int, Field(ge=1)] = 5_000
    """Most tokens the ridge from bags of tokens to latents knows."""


@schema
class EvaluateConfig:
    """How everything is measured, on test texts."""

    count: Annotated[int, Field(ge=16)] = 2_000
    """Test texts measured; R@1 is among so many."""
    decode: TextSamplerConfig = dataclasses.field(default_factory=TextSamplerConfig)
    """How the model writes."""
    steps: list[Annotated[int, Field(ge=1)]] = dataclasses.field(default_factory=lambda: [1, 4])
    """Other numbers of steps it is measured with."""
    candidates: Annotated[int, Field(ge=1)] = 8
    """N of the best of N, reranked by the model's own T2L; 1: not measured."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of the candidates."""
    rounds: Annotated[int, Field(ge=0)] = 0
    """Of a search that begins at the best of N: parts of the candidates are written anew, the N
    nearest by its own T2L stay; 0, or a single candidate: not measured."""
    candidates_count: Annotated[int, Field(ge=16)] = 500
    """Texts the best of N is measured on, beside one text of each of them."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Draws of noise averaged by T2L in one step."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)]
    """Of latents, where one step is not asked for."""
    bound_draws: Annotated[int, Field(ge=1)] = 8
    """Draws behind each text's likelihood bound."""
    noise: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2)] = dataclasses.field(
        default_factory=lambda: [0.0, 0.1, 0.3, 0.6, 1.0]
    )
    """Noise added to normalized latents before they are written, ascending."""
    noise_count: Annotated[int, Field(ge=16)] = 250
    """Texts that is measured on."""
    generated: Annotated[int, Field(ge=16)] = 1_000
    """Pairs drawn from noise."""
    reembed: bool = True
    """Read written texts by the real encoder again, where it is at hand."""
    resamples: Annotated[int, Field(ge=0)] = 200
    """Bootstrap draws behind each interval."""
    batch_size: Annotated[int, Field(gt=0)] = 250
    """Texts at once."""

    def __post_init__(self) -> None:
        if self.noise != sorted(set(self.noise)):
            raise ValueError(f"evaluate.noise={self.noise} must rise, each number once")


@RECIPES.register("textlatent", help="text <-> latent: one diffusion model of both, with cycles")
@schema
class TextLatentRecipe(TrainingRecipe):
    """A corpus with latents, a model of both with and without cycles, baselines, a report card."""

    kind: Literal["textlatent"] = "textlatent"
    data: Annotated[CorpusConfig, OneOf(CORPORA)]  # type: ignore[assignment]
    """Texts: captions, wordnet, file (your own), hf_dataset."""
    imported: ImportConfig | None = None
    """Texts with latents that another encoder made, as files; instead of data and text_encoder."""
    tokens: Annotated[TokensConfig, OneOf(TOKENS)]
    """From texts to token numbers."""
    text_encoder: Annotated[TextEncoderConfig, OneOf(TEXT_ENCODERS)]
    """What makes the latents; frozen."""
    normalizer: VectorNormalizerConfig = dataclasses.field(default_factory=VectorNormalizerConfig)
    """Their scale."""
    pairing: PairingConfig = dataclasses.field(default_factory=PairingConfig)
    """Which training rows keep both sides: semi-supervised where it is a part."""
    network: MMDiTConfig = dataclasses.field(default_factory=MMDiTConfig)
    """The transformer over both."""
    learn: TextLatentConfig
    """Modes, losses, cycles, prior."""
    train: TrainConfig
    """Length, batch, optimizer."""
    base: bool = True
    """Where cycles or a prior are on: also train without them, from the same weights with the same
    draws, and measure both."""
    baselines: BaselinesConfig = dataclasses.field(default_factory=BaselinesConfig)
    """What is compared with."""
    evaluate: EvaluateConfig
    """Measurement protocol."""
    label: str = ""
    """What the run is called in a sweep's table; runs of one label differ in their seed."""
    against: list[str] = dataclasses.field(default_factory=list)
    """Labels of the runs it is compared with there, seed by seed."""

    def __post_init__(self) -> None:
        if self.network.linear and self.learn.predicts != "data":
            raise ValueError(
                f"network.linear adds to what a network says of clean latents, and "
                f"learn.predicts={self.learn.predicts} is something else: set learn.predicts=data"
            )
        given = self.learn.cycles.t2l2t
        if given.source == "given" and given.weight > 0 and self.pairing.paired == 0:
            raise ValueError(
                "learn.cycles.t2l2t.source=given reads latents of a ridge fitted on pairs, and "
                "pairing.paired=0 leaves none: raise it"
            )
        if self.baselines.trained and self.pairing.paired * 100 < 1:
            raise ValueError(
                f"pairing.paired={self.pairing.paired:g} leaves no pairs that baselines could "
                "learn from: set baselines.trained=[] or raise it"
            )

    @property
    def terms(self) -> list[str]:
        """The additional losses that have weight."""
        learn = self.learn
        given = {"t2l2t": learn.cycles.t2l2t, "l2t2l": learn.cycles.l2t2l, "prior": learn.prior}
        return [name for name, term in given.items() if term.weight > 0]

    @property
    def arms(self) -> list[Arm]:
        """What is trained; the last is the model."""
        if not self.terms:
            return ["base"]
        return ["base", "cycles"] if self.base else ["cycles"]
