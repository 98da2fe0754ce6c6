"""Stage C: does a generator learn faster on the regularized latents?

latents               both arms' latents, cached once
generator-baseline    the same generator trained on each …
generator-regularized … with the same start, order, noise and steps, and scored along the way
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.mmreg.config import MMRegConfig
from latentsmith.recipes.mmreg.generation_config import GenerationConfig
from latentsmith.recipes.mmreg.inputs import Inputs
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.pairing import Pairing
from latentsmith.sampling.score import Score, Spaces, reference_features, score_generator
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.features import cache_tokens
from latentsmith.stores.latents import cache_latents
from latentsmith.stores.source import StoreBatches
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import FitResult, fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import json_digest

log = logging.getLogger(__name__)


@dataclass
class Arm:
    """One autoencoder and its cached latents."""

    name: str
    autoencoder: KLAutoencoder
    folder: Path
    store: FeatureStore


class GenerationStages:
    """The work of Stage C's stages.

    Args:
        load: arm's name → (trained autoencoder, its folder).
    """

    def __init__(
        self,
        cfg: MMRegConfig,
        inputs: Inputs,
        team: Team,
        load: Callable[[Run, str], tuple[KLAutoencoder, Path]],
    ):
        self.cfg, self.inputs, self.team, self._load = cfg, inputs, team, load

    @property
    def settings(self) -> GenerationConfig:
        """Stage C's part of the settings."""
        return self.cfg.generation

    # Latents --------------------------------------------------------------------------------------

    def latents(self, run: Run, arms: tuple[str, ...]) -> None:
        """Cache every arm's latents of the training images: posterior moments, so that each step
        may draw its own sample."""
        for name in arms:
            self._arm(run, name)
        self._teacher(run)
        self.team.on_main(lambda: run.mark_done("latents"))

    def _arm(self, run: Run, name: str) -> Arm:
        autoencoder, folder = self._load(run, name)
        identity = {
            "latents": autoencoder.encoder_digest(),
            "flip": self.settings.flip,
            "data": self.inputs.train.digest,
        }
        store = cache_latents(
            autoencoder.to(self.team.device).eval(),
            self.inputs.train,
            self.inputs.spaces.transform,
            run.place(f"latents-{name}", identity),
            what="moments",
            flip=self.settings.flip,
            batch_size=self.cfg.evaluate.card.batch_size,
            rank=self.team.rank,
            world_size=self.team.world_size,
        )
        return Arm(name, autoencoder, folder, store)

    def _teacher(self, run: Run) -> FeatureStore | None:
        """The teacher's tokens of the training images, where the generators are aligned (REPA)."""
        config = self.settings.teacher
        if config is None:
            return None
        encoder = config.build().to(self.team.device)
        return cache_tokens(
            encoder,
            self.inputs.train,
            self.inputs.spaces.transform,
            run.place(
                "teacher-tokens",
                {"teacher": encoder.fingerprint(), "data": self.inputs.train.digest},
            ),
            batch_size=self.cfg.evaluate.card.batch_size,
            rank=self.team.rank,
            world_size=self.team.world_size,
        )

    # Training and scoring -------------------------------------------------------------------------

    def generate(self, run: Run, name: str) -> None:
        """Train and score this arm's generators, one for each seed."""
        stage = f"generator-{name}"
        if self.team.on_main(lambda: run.stage_done(stage)):
            return
        arm, teacher = self._arm(run, name), self._teacher(run)
        found = [self._one(run, arm, teacher, seed) for seed in range(self.settings.seeds)]
        self.team.on_main(lambda: run.mark_done(stage, {"generators": found}))

    def _one(self, run: Run, arm: Arm, teacher: FeatureStore | None, seed: int) -> dict[str, Any]:
        """One generator: train to each milestone, score there, save at the end."""
        train = self._train_config(seed)
        identity = self._identity(arm, train)
        place = run.place(f"generator-{arm.name}-{seed}", identity | {"scored": self._scored()})
        trainer = _Trainer(self, arm, teacher, train, place, identity)
        scores = {}
        for samples in self.settings.milestones():
            scores[str(samples)] = file = place / "scores" / str(samples)
            done = self.team.on_main(file.with_suffix(".json").is_file)
            if not done or samples == self.settings.milestones()[-1]:
                trainer.advance(samples, None if done else file)
        return {
            "seed": seed,
            "training": place,
            "scores": scores,
            "generator": place / "generator",
            "seconds": round(trainer.seconds, 1),
        }

    def _train_config(self, seed: int) -> TrainConfig:
        # a hundred apart: the seeds of one run must not be those of the next run of a sweep
        train = self.settings.train
        return replace(train, seed=train.seed + 100 * self.cfg.seed + seed)

    def _identity(self, arm: Arm, train: TrainConfig) -> dict[str, Any]:
        """What the generator depends on besides the order of the data."""
        identity = {
            "latents": arm.store.manifest.fingerprint(),
            "autoencoder": arm.autoencoder.digest(),
            "generation": {k: v for k, v in to_dict(self.settings).items() if k != "seeds"},
            "train": asdict(train),
        }
        return identity | {"digest": json_digest(identity)}

    def _scored(self) -> dict[str, Any]:
        """What the scores depend on besides the generator: runs of a sweep with other encoders or
        held-out images must not take over each other's."""
        return {
            "val": self.inputs.val.digest,
            "spaces": self.inputs.spaces.describe(),
            "resamples": self.cfg.evaluate.card.resamples,
        }

    # Scoring --------------------------------------------------------------------------------------

    def score(self, arm: Arm, generator: LatentGenerator, samples: int, ema: bool) -> LatentCard:
        """Generate with the fixed noise and labels, and compare with the held-out images."""
        g = self.settings
        how = Score(g.count, g.batch_size, g.sampler, g.guidance, self.cfg.evaluate.card.resamples)
        detail = {"arm": arm.name, "samples": samples}
        stamp = Stamp(data=self.inputs.val.name, count=g.count, ema=ema, detail=detail)
        return score_generator(generator, self._feature_spaces, how, self.team, stamp=stamp)

    @cached_property
    def _feature_spaces(self) -> Spaces:
        """Encoders with the held-out images' features. Pixel PCA only where there is no network."""
        spaces = self.inputs.spaces
        networks = {n: e for n, e in spaces.encoders.items() if not isinstance(e, PixelPCA)}
        return [
            reference_features(encoder, spaces.raw_vectors(name, self.inputs.val))
            for name, encoder in (networks or spaces.encoders).items()
        ]


class _Trainer:
    """One generator on its way from milestone to milestone."""

    def __init__(
        self,
        stages: GenerationStages,
        arm: Arm,
        teacher: FeatureStore | None,
        train: TrainConfig,
        place: Path,
        identity: dict[str, Any],
    ):
        cfg, self.arm, self.train, self.place = stages.cfg, arm, train, place
        self.stages, self.identity, self.seconds = stages, identity, 0.0
        self.classes = stages.inputs.train.classes
        backbone = replace(cfg.generation.backbone, init_seed=train.seed)
        shape = arm.autoencoder.latent_shape(cfg.transform.resolution)
        self.backbone = backbone.build(shape, len(self.classes) if self.classes else None)
        normalizer = arm.autoencoder.require_normalizer()
        width = None if teacher is None else teacher.manifest.fields["tokens"].shape[-1]
        self.task = DiffusionTask(
            self.backbone, cfg.generation.diffusion, normalizer, teacher_dim=width
        )
        team = stages.team
        self.batches = StoreBatches(
            {"": arm.store} if teacher is None else {"": arm.store, "teacher": teacher},
            batch_size=train.batch_size,
            seed=train.seed,
            rank=team.rank,
            world_size=team.world_size,
        )

    def advance(self, samples: int, score: Path | None) -> None:
        """Train until ``samples``; score there into ``score``; at the end save the generator."""
        if score is None and self.stages.team.on_main((self.place / "generator").is_dir):
            return
        log.info("generator on %s latents: to %d samples in %s", self.arm.name, samples, self.place)
        val = self._validation_batch()
        result = fit(
            self.task,
            self.batches,
            self.train,
            self.place,
            val_batch=val,
            identity=self.identity,
            until=samples,
        )
        self.seconds = result.seconds
        if score is not None and result.samples >= samples + self.train.batch_size:
            raise UserError(
                f"{self.place} has been trained to {result.samples:,} samples and its score at "
                f"{samples:,} is gone: delete {self.place} to train this generator again"
            )
        with result.ema.swapped_in() if result.ema is not None else nullcontext():
            self._score_and_save(result, samples, score)

    def _score_and_save(self, result: FitResult, samples: int, score: Path | None) -> None:
        stages, main = self.stages, self.stages.team.is_main
        generator = self._generator(result)
        if score is not None:
            card = stages.score(self.arm, generator, samples, result.ema is not None)
            if main:
                score.parent.mkdir(parents=True, exist_ok=True)
                save_card(card, score)
        if main and samples == self.train.samples:
            generator.save(self.place / "generator")

    def _generator(self, result: FitResult) -> LatentGenerator:
        arm, g = self.arm, self.stages.settings
        info = GeneratorInfo(
            path=g.diffusion.path,
            pairing=Pairing.of(arm.autoencoder, arm.store),
            autoencoder=str(arm.folder.absolute()),
            classes=self.classes,
            training={
                "samples": result.samples,
                "ema": result.ema is not None,
                "data": self.stages.inputs.train.name,
                "arm": arm.name,
            },
        )
        normalizer = arm.autoencoder.require_normalizer()
        return LatentGenerator(
            self.backbone, info, normalizer, arm.autoencoder, aligner=self.task.aligner
        )

    @torch.no_grad()
    def _validation_batch(self) -> dict[str, Any]:
        """Posterior moments of held-out images: the store's fields."""
        batch = self.stages.inputs.validation_batch(self.train.batch_size, losses={})
        posterior = self.arm.autoencoder.encode(batch["image"].to(self.stages.team.device))
        found = {k: batch[k] for k in ("index", "label") if k in batch}
        return found | {"mean": posterior.mean.cpu(), "logvar": posterior.logvar.cpu()}
