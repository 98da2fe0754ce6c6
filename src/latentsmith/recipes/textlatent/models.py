"""The model itself: trained without cycles, with them, and saved for its user."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.text_latent.config import CyclesConfig, TextLatentConfig
from latentsmith.diffusion.text_latent.task import TextLatentTask
from latentsmith.losses.priors.none import NoPriorConfig
from latentsmith.recipes.textlatent.config import Arm, TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import state_digest

MODEL = "model"
"""Folder of the saved model below its training's."""


class Models:
    """Trains and loads the arms of one run."""

    def __init__(self, cfg: TextLatentRecipe, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team
        self._loaded: dict[str, Translator] = {}

    def learn(self, arm: Arm) -> TextLatentConfig:
        """What an arm learns: ``base`` is the same without cycles and prior."""
        if arm == "cycles":
            return self.cfg.learn
        return replace(self.cfg.learn, cycles=CyclesConfig(), prior=NoPriorConfig())

    def load(self, run: Run, arm: Arm) -> Translator:
        """A trained arm, frozen, on the team's device."""
        if arm not in self._loaded:
            folder = self.team.on_main(lambda: Path(run.summary(arm)["model"]))
            self._loaded[arm] = Translator.load(folder, device=str(self.team.device))
        return self._loaded[arm]

    def make(self, run: Run, arm: Arm) -> dict[str, Any]:
        """Train and save an arm; the stage's summary."""
        inputs, learn = self.inputs, self.learn(arm)
        config = replace(self.cfg.network, init_seed=self.cfg.network.init_seed + self.cfg.seed)
        network = config.build(inputs.tokenizer.size, inputs.tokenizer.length, inputs.train.shape)
        drawn = state_digest(network.state_dict())  # closed forms differ in bits between machines
        if config.linear:
            inputs.start_linear(network)
        needs_reference = learn.prior.weight > 0
        task = TextLatentTask(
            network,
            learn,
            inputs.process,
            reference=inputs.reference.to(self.team.device) if needs_reference else None,
        )
        train = replace(self.cfg.train, seed=self.cfg.train.seed + self.cfg.seed)
        text_cycle = learn.cycles.t2l2t
        pseudo = text_cycle.weight > 0 and text_cycle.source == "given"
        batches = inputs.batches(inputs.train, train.batch_size, train.seed, pseudo=pseudo)
        identity = {
            "start": drawn,
            "learn": to_dict(learn),
            "data": batches.fingerprint,
        }
        place = run.place(arm, identity | {"train": asdict(train)})
        few = inputs.few(train.batch_size)
        result = fit(task, batches, train, place, val_batch=few, identity=identity)
        told = {"data": inputs.data.name, "samples": result.samples, "ema": result.ema is not None}
        translator = Translator(
            task.model, inputs.tokenizer, inputs.normalizer, inputs.made_by, told
        )
        with result.averaged():
            self.team.on_main(lambda: translator.save(place / MODEL))
        counts = {"network": sum(p.numel() for p in network.parameters())}
        return result.summary(place, model=place / MODEL, parameters=counts)
