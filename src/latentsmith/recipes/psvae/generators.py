"""Stage 3: a transformer that makes latents from texts, and edited ones from instructions."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.backbones.text_dit import TextDiT
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.edit_task import EditTask
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.recipes.psvae.autoencoders import Autoencoders
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.generator_info import GeneratorInfo
from latentsmith.sampling.pairing import Pairing
from latentsmith.sampling.prompts import described
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import json_digest, state_digest

log = logging.getLogger(__name__)


def stage_of(arm: Arm) -> str:
    """The stage that trains an arm's generator."""
    return "dit" if arm == "psvae" else f"dit-{arm}"


class Generators:
    """Trains and loads the generators of one run."""

    def __init__(self, cfg: PSVAEConfig, inputs: Inputs, team: Team, autoencoders: Autoencoders):
        self.cfg, self.inputs, self.team, self.autoencoders = cfg, inputs, team, autoencoders

    def load(self, run: Run, arm: Arm) -> LatentGenerator:
        """An arm's trained generator, on the team's device."""
        summary = self.team.on_main(lambda: run.summary(stage_of(arm)))
        return LatentGenerator.load(
            Path(summary["generators"][0]["generator"]),
            autoencoder=self.autoencoders.load(run, arm),
            device=self.team.device,
        )

    def build(self, arm: Arm, latent_shape: tuple[int, int, int]) -> TextDiT:
        """A fresh transformer for an arm's latents, which knows the empty prompt."""
        empty = self.inputs.texts.captions
        length, width = empty.null.shape
        config = replace(
            self.cfg.backbone,
            text_length=length,
            text_width=width,
            init_seed=self.cfg.backbone.init_seed + self.cfg.seed,
            patch=self.cfg.vae.patch if arm == "vae" else self.cfg.backbone.patch,
        )
        network = config.build(latent_shape)
        network.set_null(empty.null, empty.null_mask)
        return network

    def make(self, run: Run, arm: Arm) -> dict[str, Any]:
        """Train and save an arm's generator; the stage's summary."""
        autoencoder, inputs = self.autoencoders.load(run, arm), self.inputs
        network = self.build(arm, autoencoder.latent_shape(self.cfg.transform.resolution))
        task = self._task(network, autoencoder.require_normalizer())
        train = replace(self.cfg.train, seed=self.cfg.train.seed + self.cfg.seed)
        batches = inputs.batches(autoencoder, train.batch_size, train.seed)
        identity = {
            "latents": batches.joined.first.manifest.fingerprint(),
            "network": state_digest(network.state_dict()),
            "backbone": to_dict(network.config),
            "diffusion": to_dict(task.config),
            "edits": inputs.edits,
        }
        identity["digest"] = json_digest(identity)
        name = stage_of(arm)
        place = run.place(name, identity | {"train": asdict(train)})
        log.info("%s: training in %s", name, place)
        result = fit(
            task,
            batches,
            train,
            place,
            val_batch=inputs.validation_batch(autoencoder, train.batch_size),
            identity=identity,
        )
        folder = place / "generator"
        facts = {"samples": result.samples, "ema": result.ema is not None, "arm": arm}
        generator = self._generator(run, arm, task, facts)  # by all: it asks what the others have
        with result.averaged():
            self.team.on_main(lambda: generator.save(folder))
        generators = [{"generator": folder, "seed": self.cfg.seed}]
        counts = {"transformer": sum(p.numel() for p in network.parameters())}
        return result.summary(place, generators=generators, parameters=counts)

    def _task(self, network: TextDiT, normalizer: Any) -> DiffusionTask:
        texts = self.inputs.texts
        if self.inputs.edits:
            return EditTask(
                network, self.cfg.diffusion, normalizer, texts=texts.captions,
                instructions=texts.instructions,
            )  # fmt: skip
        known = {f: getattr(self.cfg.diffusion, f) for f in DiffusionConfig.__dataclass_fields__}
        return DiffusionTask(network, DiffusionConfig(**known), normalizer, texts=texts.captions)

    def _generator(
        self, run: Run, arm: Arm, task: DiffusionTask, facts: dict[str, Any]
    ) -> LatentGenerator:
        autoencoder, inputs = self.autoencoders.load(run, arm), self.inputs
        store = inputs.latents(autoencoder, inputs.train)[""]
        info = GeneratorInfo(
            path=task.config.path,
            pairing=Pairing.of(autoencoder, store),
            autoencoder=str(self.autoencoders.folder(run, arm).absolute()),
            classes=None,
            training={"data": inputs.train.name, "edits": inputs.edits, **facts},
            text_encoder=described(self.cfg.text_encoder, inputs.text_encoder.fingerprint()),
        )
        return LatentGenerator(task.backbone, info, autoencoder.require_normalizer(), autoencoder)
