"""The stages of ``latentsmith run mmreg``, each resumable on its own.

references   vectors of every image in every reference space, cached
pretrain     the common starting point, where the autoencoder is not trained already
baseline     finetuned without the pairwise loss
regularized  finetuned with it: same start, data, order, noise, steps
measure      both arms on held-out images
latents      both arms' latents, cached (Stage C from here, in `generation`)
generator-…  the same generator on each arm's latents, scored along the way
report       targets, tables, pictures: report.html, report.json
"""

import logging
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.config.run import Run
from latentsmith.losses.perceptual import load_lpips
from latentsmith.metrics.autoencoder_card import measure_autoencoder, metric_lpips
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import load_card, save_card
from latentsmith.recipes.base import Stage
from latentsmith.recipes.mmreg.config import MMRegConfig
from latentsmith.recipes.mmreg.generation import GenerationStages
from latentsmith.recipes.mmreg.inputs import Inputs, Losses, teachers
from latentsmith.recipes.mmreg.report import write
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import json_digest

log = logging.getLogger(__name__)

START, BASELINE, REGULARIZED = "start", "baseline", "regularized"
ARMS = (BASELINE, REGULARIZED)
WORTH_A_PROCESS = 10_000
"""Samples from which on a training is done side by side with the other arm's. A process takes some
seconds to start."""


def stages(cfg: MMRegConfig) -> list[Stage]:
    """All stages, bound to one pipeline, so that what one loads the next finds in memory."""
    line = Pipeline(cfg)
    pretrain = Stage("pretrain", "train the common starting point", line.pretrain)
    arms = "arms" if cfg.finetune.samples >= WORTH_A_PROCESS else ""
    made = "generators" if cfg.generation.train.samples >= WORTH_A_PROCESS else ""
    return [
        Stage("references", "cache the reference vectors of every image", line.references),
        *([pretrain] if cfg.pretrain is not None else []),
        Stage(BASELINE, "finetune without the pairwise loss", line.baseline, abreast=arms),
        Stage(REGULARIZED, "finetune with the pairwise loss", line.regularized, abreast=arms),
        Stage("measure", "measure both arms on held-out images", line.measure),
        Stage("latents", "cache both arms' latents", line.latents),
        *(
            Stage(f"generator-{arm}", f"train a generator on {arm} latents", work, abreast=made)
            for arm, work in zip(ARMS, (line.generate_baseline, line.generate_other), strict=True)
        ),
        Stage("report", "write the go/no-go report", line.report, closing="measure"),
    ]


class Pipeline:
    """The stages' work. Each method takes the run and skips or resumes what is already done."""

    def __init__(self, cfg: MMRegConfig):
        self.cfg = cfg

    @cached_property
    def team(self) -> Team:
        """This process among those of the run."""
        return Team.join(several_objectives=self.cfg.objective.adversarial.weight > 0)

    @cached_property
    def inputs(self) -> Inputs:
        """Data and reference spaces."""
        return Inputs(self.cfg, self.team)

    def references(self, run: Run) -> None:
        """Fill the cache (a random transform leaves only the held-out and probe images to it)."""
        inputs = self.inputs
        self.team.on_main(self._check_fit)
        if inputs.online:
            log.info("references: computed online, the training transform is random")
        else:
            log.info("references: cached, the training transform is deterministic")
            inputs.spaces.share(inputs.train, teachers(self.cfg.losses()))
        inputs.spaces.share(inputs.val)

        def note() -> None:
            run.note("references", inputs.spaces.describe())
            run.note("data", {d.name: self._origin(d) for d in (inputs.train, inputs.val)})
            run.mark_done("references")

        self.team.on_main(note)

    def _check_fit(self) -> None:
        """Show now what would stop a later stage: data and weights that are missing, shapes that do
        not fit. Raises UserError."""
        self.cfg.autoencoder.build().latent_shape(self.cfg.transform.resolution)
        perceptual = self.cfg.objective.perceptual
        if perceptual.weight > 0:
            load_lpips(perceptual.net, trunk=perceptual.trunk)
        for dataset in (self.inputs.train, self.inputs.val):  # fetched by one process, and read
            dataset.digest  # noqa: B018

    @staticmethod
    def _origin(dataset: Any) -> dict[str, Any]:
        return {"digest": dataset.digest, "count": len(dataset), "origin": dataset.origin}

    # Training -------------------------------------------------------------------------------------

    def pretrain(self, run: Run) -> None:
        """Train the starting point on the reconstruction objective alone."""
        assert self.cfg.pretrain is not None
        self._train(run, START, self.cfg.pretrain, self.cfg.autoencoder.build(), {})

    def baseline(self, run: Run) -> None:
        """Finetune without regularizers."""
        self._train(run, BASELINE, self.cfg.finetune, self._start(run), {})

    def regularized(self, run: Run) -> None:
        """Finetune with the regularizers."""
        losses = self.cfg.losses()
        self._train(run, REGULARIZED, self.cfg.finetune, self._start(run), losses)

    def _done(self, run: Run, stage: str) -> bool:
        """Asked of the main process alone, so that all processes go the same way."""
        return self.team.on_main(lambda: run.stage_done(stage))

    def _start(self, run: Run) -> KLAutoencoder:
        """A fresh copy of what both arms start from."""
        if self.cfg.pretrain is None:
            return self.cfg.autoencoder.build()
        return self._load(run, START)

    def _load(self, run: Run, name: str) -> KLAutoencoder:
        folder = Path(run.summary("pretrain" if name == START else name)["model"])
        checkpointing = self.cfg.autoencoder.gradient_checkpointing
        config = KLAutoencoderConfig(source=str(folder), gradient_checkpointing=checkpointing)
        return config.build()

    def _train(
        self, run: Run, name: str, train: TrainConfig, autoencoder: KLAutoencoder, losses: Losses
    ) -> None:
        stage = "pretrain" if name == START else name
        if self._done(run, stage):
            return
        train = replace(train, seed=train.seed + self.cfg.seed)
        task = self._task(autoencoder, losses)
        identity = self._identity(autoencoder, losses)
        data = self.inputs.train.digest
        place = run.place(name, identity | {"train": asdict(train), "data": data})
        batches = self.inputs.training_loader(train, losses)
        val = self.inputs.validation_batch(train.batch_size, losses)
        log.info("%s: training in %s", name, place)
        result = fit(task, batches, train, place, val_batch=val, identity=identity)
        autoencoder.to(self.team.device)
        if self.team.is_main:
            if result.ema is not None:
                with result.ema.swapped_in():
                    self._export(autoencoder, place / "model")
            else:
                self._export(autoencoder, place / "model")
        summary = {
            "model": place / "model",
            "training": place,
            "samples": result.samples,
            "seconds": round(result.seconds, 1),
            "ema": result.ema is not None,
            "parts": result.last,
        }
        self.team.on_main(lambda: run.mark_done(stage, summary))

    def _export(self, autoencoder: KLAutoencoder, folder: Path) -> None:
        """Measure the latents' scale anew (training moved it), of what a generator will see, then
        save in diffusers format."""
        loader = self.inputs.spaces.loader(self.inputs.probe)
        images = (batch["image"] for batch in loader.epoch())
        autoencoder.measure_normalizer(images, latent=self.cfg.generation.diffusion.latent)
        autoencoder.save_pretrained(folder)

    def _task(self, autoencoder: KLAutoencoder, losses: Losses) -> AutoencoderTask:
        cfg, perceptual = self.cfg, self.cfg.objective.perceptual
        lpips = None
        if perceptual.weight > 0:
            lpips = load_lpips(perceptual.net, trunk=perceptual.trunk)
        else:
            log.info("objective: no LPIPS (objective.perceptual.weight is 0)")
        spaces, online = self.inputs.spaces, self.inputs.online
        read = teachers(losses)
        return AutoencoderTask(
            autoencoder,
            cfg.objective,
            losses=losses,
            terms=cfg.terms,
            online={n: partial(spaces.locate, n) for n in cfg.terms} if online else None,
            online_tokens={n: partial(spaces.locate_tokens, n) for n in read} if online else None,
            token_widths={n: spaces.token_width(n) for n in read},
            lpips=lpips,
        )

    def _identity(self, autoencoder: KLAutoencoder, losses: Losses) -> dict[str, Any]:
        """What the trained weights depend on besides data and loop settings. The arm's name is not
        in it: a regularized arm of weight 0 *is* the baseline."""
        cfg = self.cfg
        identity: dict[str, Any] = {
            "start": autoencoder.digest(),
            "objective": asdict(cfg.objective),
        }
        main, *more = [asdict(loss) for loss in losses.values()] or [None]
        identity |= {"loss": main} if main else {}
        identity |= {"more_losses": more} if more else {}
        read = teachers(losses)
        if any(loss.reads_vectors for loss in losses.values()):
            read += [name for name in cfg.terms if name not in read]
            identity["terms"] = cfg.terms
        if read:
            described = self.inputs.spaces.describe()
            identity["spaces"] = {name: described[name] for name in read}
        return identity | {"digest": json_digest(identity)}

    # Measuring ------------------------------------------------------------------------------------

    def measure(self, run: Run) -> None:
        """Measure both arms; on the main process, from the saved models alone."""
        if self._done(run, "measure"):
            return

        def work() -> None:
            for arm in ARMS:
                autoencoder = self._load(run, arm).to(self.team.device)
                known = self._known_card(run, arm, autoencoder)
                if known is None or not known.with_suffix(".json").is_file():
                    card = self._card(autoencoder, arm)
                    save_card(card, known or run.folder("measurements") / arm)
                if known is not None:
                    save_card(load_card(known), run.folder("measurements") / arm)
            run.mark_done("measure")

        self.team.on_main(work)

    def _known_card(self, run: Run, arm: str, autoencoder: KLAutoencoder) -> Path | None:
        """Where the runs of a sweep keep this autoencoder's card; None for a run on its own."""
        if run.shared is None:
            return None
        identity = {
            "autoencoder": autoencoder.digest(),
            "evaluate": asdict(self.cfg.evaluate),
            "perceptual": asdict(self.cfg.objective.perceptual),
            "spaces": self.inputs.spaces.describe(),
            "data": [self._origin(d) for d in (self.inputs.val, self.inputs.probe)],
            "transform": self.inputs.spaces.transform.fingerprint(),
            "arm": arm,
        }
        return run.place("card", identity) / "card"

    def _card(self, autoencoder: KLAutoencoder, arm: str) -> LatentCard:
        cfg, perceptual = self.cfg, self.cfg.objective.perceptual
        return measure_autoencoder(
            autoencoder,
            self.inputs.val,
            self.inputs.spaces,
            probe=self.inputs.probe,
            controls=arm == BASELINE,  # of pixels: the same for both arms
            lpips=metric_lpips(perceptual.net, perceptual.trunk, required=perceptual.weight > 0),
            cfg=cfg.evaluate.card,
            ema=cfg.finetune.ema is not None,
            detail={"arm": arm},
        )

    # Generation -----------------------------------------------------------------------------------

    @cached_property
    def generation(self) -> GenerationStages:
        """Stage C's work."""

        def load(run: Run, arm: str) -> tuple[KLAutoencoder, Path]:
            return self._load(run, arm), Path(run.summary(arm)["model"])

        return GenerationStages(self.cfg, self.inputs, self.team, load)

    def latents(self, run: Run) -> None:
        """Cache both arms' latents."""
        if not self._done(run, "latents"):
            self.generation.latents(run, ARMS)

    def generate_baseline(self, run: Run) -> None:
        """Generators on the baseline's latents."""
        self.generation.generate(run, BASELINE)

    def generate_other(self, run: Run) -> None:
        """Generators on the regularized arm's latents."""
        self.generation.generate(run, REGULARIZED)

    def report(self, run: Run) -> None:
        """Always written anew: it costs a second and follows the code."""

        def work() -> None:
            run.mark_done("report", {"page": write(self.cfg, run)})

        self.team.on_main(work)
