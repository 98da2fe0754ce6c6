"""What a run holds to look at: its latent spaces, each with what was trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentsmith.autoencoders.kl import SCRATCH
from latentsmith.config.run import Run
from latentsmith.errors import UserError
from latentsmith.sampling.generator_info import is_model, read_info

Kind = Literal["images", "texts", "none"]
TRANSLATOR = "text_latent.json"
"""What marks the folder of a model of texts and latents."""
SHOWN = 2
"""Arms of a run that are shown at first: the last ones, which are those it compares."""


@dataclass(frozen=True)
class Arm:
    """One latent space of one run.

    Attributes:
        key: number among all arms of the page, as text.
        run: the run it is of.
        run_name: what the page calls the run.
        stage: the stage that made it; "" where a run has nothing but numbers.
        model: folder (or hub id) of the autoencoder.
        generator: folder of the generator in its latents.
        translator: folder of a model of texts and latents.
        shown: whether the page shows it at first.
    """

    key: str
    run: Run
    run_name: str
    stage: str
    model: str | None = None
    generator: Path | None = None
    translator: Path | None = None
    shown: bool = True

    @property
    def kind(self) -> Kind:
        """What its samples are."""
        if self.translator is not None:
            return "texts"
        return "none" if self.model is None and self.generator is None else "images"


@dataclass(frozen=True)
class _Found:
    """An `Arm` before it has a number."""

    stage: str
    model: str | None = None
    generator: Path | None = None
    translator: Path | None = None


def find_arms(folders: Sequence[Path]) -> list[Arm]:
    """All arms of the runs, in their order.

    Raises:
        UserError: no run, given twice, nothing trained yet, or images and texts on one page.
    """
    names = _names([Path(folder).resolve() for folder in folders])
    arms: list[Arm] = []
    for folder, name in zip(folders, names, strict=True):
        run = Run.load(folder)
        found = _found(run) or [_Found("")]
        if not (run.finished or found[0].stage):
            raise UserError(
                f"{folder} is not finished and has trained nothing yet: the same latentsmith run "
                "command goes on with it"
            )
        for place, one in enumerate(found):
            arms.append(
                Arm(
                    key=str(len(arms)), run=run, run_name=name, stage=one.stage, model=one.model,
                    generator=one.generator, translator=one.translator,
                    shown=place >= len(found) - SHOWN,
                )
            )  # fmt: skip
    kinds = {arm.kind for arm in arms} - {"none"}
    if len(kinds) > 1:
        raise UserError(
            "runs of images and runs of texts have no samples in common: explore them one after "
            "the other"
        )
    return arms


def _names(folders: list[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them apart. Raises UserError for
    one that is given twice."""
    twice = sorted({str(f) for f in folders if folders.count(f) > 1})
    if twice:
        raise UserError(f"given more than once: {', '.join(twice)}")
    for depth in range(1, max(len(f.parts) for f in folders) + 1):
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [str(f) for f in folders]


def _found(run: Run) -> list[_Found]:
    """What the stages left; of runs that only use a model, that one."""
    left = {s.name: run.summary(s.name) for s in run.config.stages() if run.stage_done(s.name)}
    folders = {stage: Path(kept["model"]) for stage, kept in left.items() if kept.get("model")}
    models = {stage: folder for stage, folder in folders.items() if is_model(folder)}
    generators = {
        stage: Path(kept["generators"][0]["generator"])  # of several seeds the first
        for stage, kept in left.items()
        if kept.get("generators")
    }
    texts = [
        _Found(stage, translator=folder)
        for stage, folder in folders.items()
        if (folder / TRANSLATOR).is_file()
    ]
    return texts or _paired(models, generators) or _used(run.config)


def _paired(models: dict[str, Path], generators: dict[str, Path]) -> list[_Found]:
    """Each autoencoder with its generator. Where several generators share one autoencoder, each is
    an arm of its own, called by its stage."""
    sources = {stage: Path(read_info(folder).autoencoder) for stage, folder in generators.items()}
    found = list[_Found]()
    for stage, model in models.items():
        own = [g for g, source in sources.items() if source.resolve() == model.resolve()]
        if len(own) < 2:
            found.append(_Found(stage, str(model), generators[own[0]] if own else None))
        else:
            found += [_Found(g, str(model), generators[g]) for g in own]
    known = {one.generator for one in found}
    for stage, folder in generators.items():
        if folder not in known:
            found.append(_Found(stage, str(sources[stage]), folder))
    return found


def _used(config: Any) -> list[_Found]:
    """Of recipes that train nothing (measure, interpolate, sample, edit): what they work with."""
    generator = getattr(config, "generator", None)
    if generator is not None:
        given = getattr(config, "autoencoder", None)
        own = str(given) if isinstance(given, Path) else read_info(generator).autoencoder
        return [_Found("generator", own, generator)]
    source = getattr(getattr(config, "autoencoder", None), "source", SCRATCH)
    return [] if source == SCRATCH else [_Found("autoencoder", str(source))]
