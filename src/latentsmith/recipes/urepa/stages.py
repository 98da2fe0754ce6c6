"""The run: pipeline → caches → control and aligned network → measurements → report."""

import logging
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.config.run import Run
from latentsmith.data.splits import Splits
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.base import Stage, Staged
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.inputs import Inputs
from latentsmith.recipes.urepa.measure import Measurer
from latentsmith.recipes.urepa.pretrain import pretrain_autoencoder
from latentsmith.recipes.urepa.report import ALIGNED, BASE, TEACHER, UNALIGNED, arms, write
from latentsmith.recipes.urepa.training import Networks
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.training.team import Team

log = logging.getLogger(__name__)

AUTOENCODER, DENOISER = "autoencoder", "denoiser"


def stages(cfg: UREPAConfig) -> list[Stage]:
    """All stages, bound to one pipeline, so that what one loads the next finds in memory."""
    line = Pipeline(cfg)
    made = cfg.pretrain is not None
    denoiser = Stage(DENOISER, "train the small pipeline's U-Net", line.denoiser)
    control = Stage(UNALIGNED, "adapt without alignment", partial(line.adapt, name=UNALIGNED))
    return [
        Stage(AUTOENCODER, "train or fetch the autoencoder", line.make_autoencoder),
        Stage("caches", "cache latents, teacher tokens and texts", line.caches),
        *([denoiser] if made else []),
        *([control] if cfg.has_control else []),
        Stage(ALIGNED, "adapt with alignment", partial(line.adapt, name=ALIGNED)),
        Stage("measure", "measure features and generated images", line.measure),
        Stage("report", "write the report", line.report, closing="measure"),
    ]


class Pipeline(Staged):
    """The stages' work. Each method takes the run and skips or resumes what is already done."""

    def __init__(self, cfg: UREPAConfig):
        self.cfg = cfg
        self._inputs: Inputs | None = None

    @cached_property
    def team(self) -> Team:
        """This process among those of the run."""
        adversarial = self.cfg.pretrain and self.cfg.pretrain.objective.adversarial.weight > 0
        return Team.join(several_objectives=bool(adversarial))

    # Before adaptation ----------------------------------------------------------------------------

    def make_autoencoder(self, run: Run) -> None:
        """Train it, or load the published one; either way it ends in the run's folder, measured,
        where generators find it again."""
        self._once(run, AUTOENCODER, lambda: self._autoencoder(run))

    def _autoencoder(self, run: Run) -> dict[str, Any]:
        cfg = self.cfg
        if cfg.pretrain is not None:
            evaluate = cfg.evaluate
            images = Splits(cfg.data, count=evaluate.count, probe_count=evaluate.probe_count)
            return pretrain_autoencoder(cfg, images, self.team, run)
        folder = run.place(AUTOENCODER, {"source": cfg.autoencoder.source}) / "model"
        self.team.on_main(lambda: self._published(folder))
        return {"model": folder}

    def _published(self, folder: Path) -> None:
        autoencoder: KLAutoencoder = self.cfg.autoencoder.build()
        if autoencoder.normalizer is None:  # the generator was trained with the published scale
            autoencoder.stated_normalizer(latent=self.cfg.diffusion.latent)
        autoencoder.save_pretrained(folder)

    def inputs(self, run: Run) -> Inputs:
        """Data and caches; the autoencoder must be there."""
        if self._inputs is None:
            folder = self.team.on_main(lambda: Path(run.summary(AUTOENCODER)["model"]))
            self._inputs = Inputs(self.cfg, self.team, folder)
        return self._inputs

    def caches(self, run: Run) -> None:
        """Fill the three caches of training and held-out images."""

        def work() -> dict[str, Any]:
            inputs = self.inputs(run)
            found = {"train": inputs.training, "val": inputs.held_out}
            return {
                name: {what: str(store.path) for what, store in vars(caches).items()}
                for name, caches in found.items()
            }

        self._once(run, "caches", work)

    # Training -------------------------------------------------------------------------------------

    def networks(self, run: Run) -> Networks:
        """Builds and trains the U-Nets."""
        pipeline = None
        if self.cfg.pretrain is not None:
            done = self.team.on_main(lambda: run.stage_done(DENOISER))
            if done:
                pipeline = self.team.on_main(lambda: Path(run.summary(DENOISER)["pipeline"]))
        return Networks(self.cfg, self.inputs(run), pipeline)

    def denoiser(self, run: Run) -> None:
        """Train the small pipeline's U-Net."""
        self._once(run, DENOISER, lambda: self.networks(run).pretrain(run))

    def adapt(self, run: Run, name: str) -> None:
        """Train one arm."""
        self._once(run, name, lambda: self.networks(run).adapt(run, name, aligned=name == ALIGNED))

    # Afterwards -----------------------------------------------------------------------------------

    def measure(self, run: Run) -> None:
        """Measure every arm from what was saved."""

        def work() -> dict[str, Any]:
            measurer = Measurer(self.cfg, self.inputs(run), self.team)
            ceiling = measurer.teacher_card()
            self.team.on_main(partial(save_card, ceiling, run.folder("measurements") / TEACHER))
            for arm in arms(self.cfg):
                generator = self._arm(run, arm)
                card = measurer.card(generator, arm)
                self.team.on_main(partial(save_card, card, run.folder("measurements") / arm))
            return {}

        self._once(run, "measure", work)

    def _arm(self, run: Run, arm: str) -> LatentGenerator:
        if arm == BASE:
            return self.networks(run).base()
        folder = self.team.on_main(lambda: Path(run.summary(arm)["generators"][0]["generator"]))
        return LatentGenerator.load(
            folder, autoencoder=self.inputs(run).autoencoder, device=self.team.device
        )

    def report(self, run: Run) -> None:
        """Always written anew: it costs a second and follows the code."""
        self.team.on_main(lambda: run.mark_done("report", {"page": write(self.cfg, run)}))
