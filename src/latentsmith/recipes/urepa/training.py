"""Training one U-Net on the caches: the pipeline's own, the control, the aligned."""

import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from latentsmith.backbones.sd_unet import TRAINED_HERE, SDUNetConfig
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.inputs import Inputs
from latentsmith.recipes.urepa.pretrain import save_pipeline
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.pairing import Pairing
from latentsmith.sampling.prompts import described
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import FitResult, fit
from latentsmith.utils.digest import json_digest, state_digest

log = logging.getLogger(__name__)

PIPELINE = "pipeline"
"""Folder of a pretrained pipeline below its training's."""


@dataclass
class Networks:
    """Builds and trains the U-Nets of one run.

    Attributes:
        pipeline: folder of the pretrained pipeline; None: the settings name a published one.
    """

    cfg: UREPAConfig
    inputs: Inputs
    pipeline: Path | None

    def build(self, config: SDUNetConfig) -> SDUNet:
        """A U-Net for the cached latents, which knows the empty prompt."""
        if config.source == TRAINED_HERE:
            assert self.pipeline is not None
            config = replace(config, source=str(self.pipeline))
        texts = self.inputs.texts
        network = replace(config, text_length=len(texts.null)).build(self.inputs.latent_shape)
        network.conditions.set_null(texts.null, texts.null_pooled)
        return network

    def base(self) -> LatentGenerator:
        """The network as it was before adaptation."""
        network = self.build(replace(self.cfg.unet, adapt="none"))
        return self._generator(network.to(self.inputs.team.device).eval(), None, {"samples": 0})

    # Training -------------------------------------------------------------------------------------

    def pretrain(self, run: Run) -> dict[str, Any]:
        """Train the pipeline's U-Net and save both as diffusers does; the stage's summary."""
        section = self.cfg.pretrain
        assert section is not None
        network = self.build(section.unet)
        diffusion = section.diffusion.of(network, aligned=False)
        diffusion = replace(diffusion, latent=self.cfg.diffusion.latent)
        trained = self._train(run, "denoiser", network, diffusion, section.denoiser)
        if self.inputs.team.is_main:
            autoencoder = self.inputs.autoencoder
            with trained.result.averaged():
                save_pipeline(network, autoencoder, trained.place / PIPELINE)
        return trained.result.summary(trained.place, pipeline=trained.place / PIPELINE)

    def adapt(self, run: Run, name: str, *, aligned: bool) -> dict[str, Any]:
        """Train one arm and save it as a generator; the stage's summary."""
        network = self.build(self.cfg.unet)
        diffusion = self.cfg.diffusion.of(network, aligned=aligned)
        train = replace(self.cfg.train, seed=self.cfg.train.seed + self.cfg.seed)
        trained = self._train(run, name, network, diffusion, train)
        folder, result = trained.place / "generator", trained.result
        if self.inputs.team.is_main:
            facts = {"samples": result.samples, "ema": result.ema is not None, "arm": name}
            generator = self._generator(network, trained.task, facts)
            with result.averaged():
                generator.save(folder)
        counts = network.parameter_counts()
        if trained.task.aligner is not None:
            counts["head"] = sum(p.numel() for p in trained.task.aligner.parameters())
        generators = [{"generator": folder, "seed": self.cfg.seed}]
        return result.summary(trained.place, generators=generators, parameters=counts)

    def _train(
        self,
        run: Run,
        name: str,
        network: SDUNet,
        diffusion: DiffusionConfig,
        train: TrainConfig,
    ) -> "_Trained":
        inputs = self.inputs
        task = DiffusionTask(
            network,
            diffusion,
            inputs.autoencoder.require_normalizer(),
            teacher_dim=inputs.training.tokens.manifest.fields["tokens"].shape[-1],
            texts=inputs.texts,
        )
        identity = {
            "caches": inputs.training.fingerprint(),
            "network": state_digest(network.state_dict()),
            "unet": _without_place(network.config),
            "diffusion": to_dict(diffusion),
        }
        identity["digest"] = json_digest(identity)
        place = run.place(name, identity | {"train": asdict(train)})
        log.info("%s: training in %s", name, place)
        result = fit(
            task,
            inputs.batches(train.batch_size, train.seed),
            train,
            place,
            val_batch=inputs.validation_batch(train.batch_size),
            identity=identity,
        )
        return _Trained(place, task, result)

    def _generator(
        self, network: SDUNet, task: DiffusionTask | None, facts: dict[str, Any]
    ) -> LatentGenerator:
        inputs = self.inputs
        assert network.config.path is not None
        info = GeneratorInfo(
            path=network.config.path if task is None else task.config.path,
            pairing=self._pairing,
            autoencoder=str(inputs.folder.absolute()),
            classes=inputs.train.classes if self.cfg.texts == "classes" else None,
            training={"data": inputs.train.name, **facts},
            text_encoder=described(self.cfg.text_encoder, inputs.training.texts.manifest.encoder),
        )
        return LatentGenerator(
            network,
            info,
            inputs.autoencoder.require_normalizer(),
            inputs.autoencoder,
            inputs.texts if self.cfg.texts == "classes" else None,
            aligner=None if task is None else task.aligner,
        )

    @cached_property
    def _pairing(self) -> Pairing:
        return Pairing.of(self.inputs.autoencoder, self.inputs.training.latents)


def _without_place(config: SDUNetConfig) -> dict[str, Any]:
    """Settings without the folder its weights lie in: these have a digest, and folders move."""
    return {k: v for k, v in to_dict(config).items() if k not in ("source", "subfolder")}


@dataclass
class _Trained:
    """A finished training."""

    place: Path
    task: DiffusionTask
    result: FitResult
