"""The run: S-VAE → PS-VAE → caches → generators → measurements → report."""

from functools import cached_property, partial
from typing import Any

from latentsmith.config.run import Run
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.base import Stage, Staged
from latentsmith.recipes.psvae.autoencoders import STAGE, Autoencoders
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig
from latentsmith.recipes.psvae.generators import Generators, stage_of
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.recipes.psvae.measure import Measurer
from latentsmith.recipes.psvae.report import write
from latentsmith.training.team import Team

MADE: dict[Arm, str] = {
    "svae": "features from a compact latent; the encoder frozen",
    "psvae": "features and pixels from it; the encoder trains",
    "rae": "to compare: the features themselves as latent",
    "vae": "to compare: a pixel autoencoder",
}


def stages(cfg: PSVAEConfig) -> list[Stage]:
    """All stages, bound to one pipeline, so that what one loads the next finds in memory."""
    line = Pipeline(cfg)
    first: list[Arm] = ["svae", "psvae", *[arm for arm in cfg.arms if arm in ("rae", "vae")]]
    return [
        *(Stage(STAGE[arm], MADE[arm], partial(line.autoencoder, arm=arm)) for arm in first),
        Stage("caches", "cache latents, captions and instructions", line.caches),
        *(
            Stage(stage_of(arm), f"train a transformer in {arm}", partial(line.generator, arm=arm))
            for arm in reversed(cfg.arms)
        ),
        Stage("measure", "measure autoencoders, generated and edited images", line.measure),
        Stage("report", "write the report", line.report, closing="measure"),
    ]


class Pipeline(Staged):
    """The stages' work. Each method takes the run and skips or resumes what is already done."""

    def __init__(self, cfg: PSVAEConfig):
        self.cfg = cfg

    @cached_property
    def team(self) -> Team:
        """This process among those of the run."""
        parts = (self.cfg.svae, self.cfg.pixel, self.cfg.vae)
        several = any(part.objective.adversarial.weight > 0 for part in parts)
        return Team.join(several_objectives=several)

    @cached_property
    def inputs(self) -> Inputs:
        """Images, texts and caches."""
        return Inputs(self.cfg, self.team)

    @cached_property
    def autoencoders(self) -> Autoencoders:
        """Of stages 1 and 2."""
        return Autoencoders(self.cfg, self.inputs, self.team)

    @cached_property
    def generators(self) -> Generators:
        """Of stage 3."""
        return Generators(self.cfg, self.inputs, self.team, self.autoencoders)

    def autoencoder(self, run: Run, arm: Arm) -> None:
        """Make an arm's autoencoder."""
        self._once(run, STAGE[arm], lambda: self.autoencoders.make(run, arm))

    def caches(self, run: Run) -> None:
        """Fill the caches of every arm's latents, and of the texts."""

        def work() -> dict[str, Any]:
            inputs, found = self.inputs, dict[str, Any]()
            for arm in self.cfg.arms:
                autoencoder = self.autoencoders.load(run, arm)
                for name, images in (("train", inputs.train), ("val", inputs.val)):
                    stores = inputs.latents(autoencoder, images)
                    found[f"{arm}/{name}"] = [str(store.path) for store in stores.values()]
            for texts in (inputs.texts, inputs.held_out_texts):
                found.setdefault("texts", []).append(texts.captions.name)
            return found

        self._once(run, "caches", work)

    def generator(self, run: Run, arm: Arm) -> None:
        """Train an arm's transformer."""
        self._once(run, stage_of(arm), lambda: self.generators.make(run, arm))

    def measure(self, run: Run) -> None:
        """Measure every arm from what was saved."""

        def work() -> dict[str, Any]:
            measurer = Measurer(self.cfg, self.inputs, self.team)
            for arm in self.cfg.arms:
                card = measurer.card(self.generators.load(run, arm), arm)
                self.team.on_main(partial(save_card, card, run.folder("measurements") / arm))
            return {}

        self._once(run, "measure", work)

    def report(self, run: Run) -> None:
        """Always written anew: it costs a second and follows the code."""
        self.team.on_main(lambda: run.mark_done("report", {"page": write(self.cfg, run)}))
