"""Phase 1: the autoencoder, once for each decoder that is compared."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.field.model import (
    FieldAutoencoder,
    FieldAutoencoderConfig,
    load_field,
)
from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.autoencoders.train import MODEL, train_autoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.fields.batches import of_images
from latentsmith.recipes.field.config import FieldConfig
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.training.team import Team

MAIN = "main"
"""The arm with the recipe's own decoder; those of ``compare`` have their names."""
UNTRAINED = "untrained"
"""The same before its first step, in tables: where its tokens carry planes, it is kriging."""


def stage_of(arm: str) -> str:
    """The stage that trains an arm's autoencoder."""
    return "autoencoder" if arm == MAIN else f"autoencoder-{arm}"


class Autoencoders:
    """Trains and loads the autoencoders of one run."""

    def __init__(self, cfg: FieldConfig, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team
        self._loaded: dict[str, FieldAutoencoder] = {}

    def config(self, arm: str) -> FieldAutoencoderConfig:
        """Settings of an arm's autoencoder."""
        field = self.cfg.field
        decoder = field.decoder if arm == MAIN else self.cfg.compare[arm]
        return replace(field, decoder=decoder, init_seed=field.init_seed + self.cfg.seed)

    def folder(self, run: Run, arm: str = MAIN) -> Path:
        """Where an arm's saved autoencoder is."""
        return self.team.on_main(lambda: Path(run.summary(stage_of(arm))["model"]))

    def load(self, run: Run, arm: str = MAIN) -> FieldAutoencoder:
        """An arm's trained autoencoder, frozen, on the team's device."""
        if arm not in self._loaded:
            self._loaded[arm] = load_field(self.folder(run, arm)).to(self.team.device)
        return self._loaded[arm]

    def make(self, run: Run, arm: str) -> dict[str, Any]:
        """Train and save an arm's autoencoder; the stage's summary."""
        task = FieldTask(self.config(arm).build(), of_images(self.cfg.sampling), self.cfg.compared)
        train = replace(self.cfg.train, seed=self.cfg.train.seed + self.cfg.seed)
        identity = {
            "start": task.autoencoder.digest(),
            "sampling": to_dict(self.cfg.sampling),
            "compared": self.cfg.compared,
            "data": self.inputs.train.digest,
        }
        place = run.place(stage_of(arm), identity | {"train": asdict(train)})
        result = train_autoencoder(
            task, self.inputs, self.inputs.transform, train, place, self.team,
            identity=identity, latent="mode",
        )  # fmt: skip
        autoencoder = task.autoencoder
        counts = {
            "encoder": sum(p.numel() for p in autoencoder.encoder.parameters()),
            "decoder": sum(p.numel() for p in autoencoder.decoder.parameters()),
        }
        return result.summary(place, model=place / MODEL, parameters=counts)
