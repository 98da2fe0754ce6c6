"""Phase 2 on the code: a flow from which new fields are drawn."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.recipes.field.autoencoders import Autoencoders
from latentsmith.recipes.field.config import FieldConfig
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.generator_info import GeneratorInfo
from latentsmith.sampling.pairing import Pairing
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import state_digest


class LatentFlow:
    """Trains and loads the flow of codes of one run."""

    def __init__(self, cfg: FieldConfig, inputs: Inputs, team: Team, autoencoders: Autoencoders):
        self.cfg, self.inputs, self.team, self.autoencoders = cfg, inputs, team, autoencoders

    def load(self, run: Run) -> LatentGenerator:
        """The trained flow with its decoder, on the team's device."""
        summary = self.team.on_main(lambda: run.summary("latent"))
        return LatentGenerator.load(
            Path(summary["generators"][0]["generator"]),
            autoencoder=self.autoencoders.load(run),
            device=self.team.device,
        )

    def make(self, run: Run) -> dict[str, Any]:
        """Train and save it; the stage's summary."""
        cfg, inputs = self.cfg.latent, self.inputs
        autoencoder = self.autoencoders.load(run)
        backbone = replace(cfg.backbone, init_seed=cfg.backbone.init_seed + self.cfg.seed)
        network = backbone.build(autoencoder.latent_shape(self.cfg.transform.resolution), None)
        task = DiffusionTask(network, cfg.diffusion, autoencoder.require_normalizer())
        train = replace(cfg.train, seed=cfg.train.seed + self.cfg.seed)
        batches = inputs.code_batches(autoencoder, train.batch_size, train.seed)
        store = inputs.codes(autoencoder, inputs.train)
        identity = {
            "latents": store.manifest.fingerprint(),
            "network": state_digest(network.state_dict()),
            "diffusion": to_dict(cfg.diffusion),
        }
        place = run.place("latent", identity | {"train": asdict(train)})
        few = inputs.few_codes(autoencoder, train.batch_size)
        result = fit(task, batches, train, place, val_batch=few, identity=identity)
        info = GeneratorInfo(
            path=cfg.diffusion.path,
            pairing=Pairing.of(autoencoder, store),
            autoencoder=str(self.autoencoders.folder(run).absolute()),
            classes=None,
            training={
                "data": inputs.train.name,
                "samples": result.samples,
                "ema": result.ema is not None,
            },
        )
        generator = LatentGenerator(
            task.backbone, info, autoencoder.require_normalizer(), autoencoder
        )
        folder = place / "generator"
        with result.averaged():
            self.team.on_main(lambda: generator.save(folder))
        counts = {"network": sum(p.numel() for p in network.parameters())}
        generators = [{"generator": folder, "seed": self.cfg.seed}]
        return result.summary(place, generators=generators, parameters=counts)
