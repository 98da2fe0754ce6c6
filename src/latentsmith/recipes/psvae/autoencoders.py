"""Stages 1 and 2: from a vision encoder to a latent space; and those it is compared with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.autoencoders.projectors.identity import IdentityConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.autoencoders.semantic_task import SemanticTask
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.autoencoders.train import MODEL, lpips_of, train_autoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.loader import Loader
from latentsmith.encoders.base import Encoder
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig, SemanticStageConfig, VAEStageConfig
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.training.team import Team

STAGE: dict[Arm, str] = {"svae": "svae", "psvae": "pixel", "rae": "rae", "vae": "vae"}
"""The stage that makes each arm's autoencoder."""


class Autoencoders:
    """Makes and loads the autoencoders of one run.

    Args:
        inputs: its images.
        team: this process among those of the run.
    """

    def __init__(self, cfg: PSVAEConfig, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team
        self._loaded: dict[Arm, Autoencoder] = {}

    def folder(self, run: Run, arm: Arm) -> Path:
        """Where an arm's saved autoencoder is."""
        return self.team.on_main(lambda: Path(run.summary(STAGE[arm])["model"]))

    def load(self, run: Run, arm: Arm) -> Autoencoder:
        """An arm's trained autoencoder, frozen, on the team's device."""
        if arm not in self._loaded:
            found = load_autoencoder(self.folder(run, arm))
            self._loaded[arm] = found.to(self.team.device).requires_grad_(False).eval()
        return self._loaded[arm]

    # Making ---------------------------------------------------------------------------------------

    def make(self, run: Run, arm: Arm) -> dict[str, Any]:
        """Train and save an arm's autoencoder; the stage's summary."""
        if arm == "vae":
            return self._vae(run)
        if arm == "psvae":
            return self._psvae(run)
        return self._semantic(run, arm)

    def _semantic(self, run: Run, arm: Arm) -> dict[str, Any]:
        """S-VAE; or RAE, which is the encoder as it is and a pixel decoder."""
        config, stage = self.cfg.autoencoder, self.cfg.svae
        if arm == "rae":
            config = replace(config, projector=IdentityConfig(), latent_channels=None)
            objective = replace(
                self.cfg.pixel.objective, semantic=0.0, cosine=0.0, kl=0.0, encoder_lr=0.0
            )
            stage = SemanticStageConfig(objective=objective, train=self.cfg.pixel.train)
        autoencoder = config.build().to(self.team.device)
        if self.cfg.standardize:
            autoencoder.measure_features(self._images())
        return self._train(run, STAGE[arm], _task(autoencoder, stage, None), stage)

    def _psvae(self, run: Run) -> dict[str, Any]:
        """From S-VAE, the encoder free."""
        autoencoder, stage = load_autoencoder(self.folder(run, "svae")), self.cfg.pixel
        assert isinstance(autoencoder, SemanticAutoencoder)
        trains = stage.objective.encoder_lr > 0
        target = self.cfg.autoencoder.encoder.build() if trains else None
        return self._train(run, STAGE["psvae"], _task(autoencoder, stage, target), stage)

    def _vae(self, run: Run) -> dict[str, Any]:
        stage = self.cfg.vae
        task = AutoencoderTask(
            stage.autoencoder.build(), stage.objective, lpips=lpips_of(stage.objective)
        )
        return self._train(run, STAGE["vae"], task, stage)

    def _train(
        self,
        run: Run,
        name: str,
        task: AutoencoderTask,
        stage: SemanticStageConfig | VAEStageConfig,
    ) -> dict[str, Any]:
        train = replace(stage.train, seed=stage.train.seed + self.cfg.seed)
        identity = {
            "start": task.autoencoder.digest(),
            "objective": to_dict(stage.objective),
            "pairs": {name: to_dict(loss) for name, loss in task.losses.items()},
            "data": self.inputs.train.digest,
        }
        place = run.place(name, identity | {"train": asdict(train)})
        result = train_autoencoder(
            task,
            self.inputs,
            self.inputs.transform,
            train,
            place,
            self.team,
            identity=identity,
            latent=self.cfg.diffusion.latent,
        )
        return result.summary(place, model=place / MODEL, parameters=_counts(task))

    def _images(self) -> Any:
        """Of the probe, batch by batch."""
        loader = Loader(
            self.inputs.probe, self.inputs.transform, batch_size=self.cfg.evaluate.batch_size,
            seed=0, shuffle=False,
        )  # fmt: skip
        return (batch["image"] for batch in loader.epoch())


def _task(
    autoencoder: SemanticAutoencoder, stage: SemanticStageConfig, target: Encoder | None
) -> SemanticTask:
    """With MM-Reg's pairs where the stage has them, against the frozen encoder's vectors."""
    more: dict[str, Any] = {}
    if stage.pairs is not None:
        frozen = target or autoencoder.encoder
        more = {
            "losses": {"pairs": stage.pairs},
            "terms": {"encoder": 1.0},
            "online": {"encoder": frozen.vector},
        }
    lpips = lpips_of(stage.objective)
    return SemanticTask(autoencoder, stage.objective, target=target, lpips=lpips, **more)


def _counts(task: AutoencoderTask) -> dict[str, int]:
    """Parameters by what they are of."""
    autoencoder = task.autoencoder
    if not isinstance(autoencoder, SemanticAutoencoder):
        return {"autoencoder": sum(p.numel() for p in autoencoder.parameters())}
    parts = {
        "encoder": autoencoder.encoder,
        "projector": autoencoder.projector,
        "reader": autoencoder.reader,
        "pixel decoder": autoencoder.pixels,
    }
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
