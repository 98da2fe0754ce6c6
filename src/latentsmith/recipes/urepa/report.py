"""Did alignment do what it promises? Base, control and aligned network side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.measure import HEAD, LINEAR, at, measured_times
from latentsmith.reports.console import publish
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target
from latentsmith.reports.plots import curves, image_grid, training_curves
from latentsmith.reports.verdicts import above_baseline, within_percent
from latentsmith.training.trackers import read_metrics

BASE, UNALIGNED, ALIGNED = "base", "unaligned", "aligned"
TEACHER = "teacher"
"""Under this name the teacher's own probes stand beside the networks'."""

TOLERANCE = 2.0
"""Per cent of the control's Fréchet distance that alignment may cost."""

Cards = dict[str, LatentCard]


def arms(cfg: UREPAConfig) -> list[str]:
    """The networks that are measured: before, adapted without alignment, adapted with it."""
    return [BASE, *([UNALIGNED] if cfg.has_control else []), ALIGNED]


def reference(cfg: UREPAConfig) -> str:
    """The arm that the aligned one is compared with."""
    return UNALIGNED if cfg.has_control else BASE


def write(cfg: UREPAConfig, run: Run) -> Path:
    """Write ``report.html`` and ``report.json`` of a measured run and print the verdict; returns
    the page."""
    cards = {arm: load_card(run.path / "measurements" / arm) for arm in arms(cfg)}
    return publish(build(cfg, run, cards, load_card(run.path / "measurements" / TEACHER)), run.path)


def build(cfg: UREPAConfig, run: Run, cards: Cards, teacher: LatentCard) -> Report:
    """The report's content from every arm's card, and the teacher's own."""
    sections = [
        _alignment(cfg, cards),
        _features(cards, teacher),
        _generation(cfg, cards),
        _training(cfg, run),
    ]
    return Report(
        title="U-REPA: do the U-Net's features follow the teacher's?",
        subtitle=f"{_what_trains(cfg)}; teacher {cfg.teacher.kind}; "
        f"{next(iter(cards[ALIGNED])).stamp.data}",
        lead=_lead(cfg, cards),
        targets=targets(cfg, cards),
        sections=[section for section in sections if section is not None],
        measurements={arm: list(c) for arm, c in (cards | {TEACHER: teacher}).items() if list(c)},
        config=to_dict(cfg),
        manifest=run.manifest,
        run=str(run.path),
    )


def _what_trains(cfg: UREPAConfig) -> str:
    if cfg.unet.adapt == "full":
        return "the whole U-Net trains"
    if cfg.unet.adapt == "none":
        return "the alignment head alone trains"
    scope = cfg.unet.lora.scope
    where = scope if isinstance(scope, str) else ", ".join(scope)
    return f"LoRA of rank {cfg.unet.lora.rank} in {where}"


def telling_time(cfg: UREPAConfig, cards: Cards, metric: str) -> str:
    """End of the name of ``metric`` at the noise level where the *other* arm is best: the choice
    that favours alignment least."""
    card = cards[reference(cfg)]
    found = [(card.get(name), t) for t, name in measured_times(card, metric) if HEAD not in name]
    known = [(m.value, t) for m, t in found if m is not None]
    return at(max(known)[1]) if known else at(cfg.evaluate.times[0])


def _lead(cfg: UREPAConfig, cards: Cards) -> str:
    other, told = reference(cfg), telling_time(cfg, cards, "linear_probe")
    cosine = _pair(cards, other, f"token_cosine_{LINEAR}_{told}")
    probe = _pair(cards, other, f"linear_probe_{told}")
    if cosine is None:
        return "Not everything could be measured; see the targets."
    text = (
        f"A linear map from the features finds the teacher's tokens with cosine "
        f"{cosine[1].value:.3f} after alignment and {cosine[0].value:.3f} without"
    )
    if probe is not None:
        text += f"; a linear probe names {probe[1].value:.1%} of the classes against "
        text += f"{probe[0].value:.1%}"
    return text + f" ({cosine[1].stamp.count:,} held-out images, compared with: {other})."


def _pair(cards: Cards, other: str, name: str) -> tuple[Measurement, Measurement] | None:
    before, after = cards[other].get(name), cards[ALIGNED].get(name)
    return None if before is None or after is None else (before, after)


# Targets ------------------------------------------------------------------------------------------


def targets(cfg: UREPAConfig, cards: Cards) -> list[Target]:
    """Nearer to the teacher, better features, no worse images: each against the control."""
    other, new = cards[reference(cfg)], cards[ALIGNED]

    def better(key: str, name: str, meaning: str, *, required: bool) -> Target:
        return above_baseline(
            new.get(key), other.get(key), name=name, meaning=meaning, required=required,
            difference=joint_difference(new, other, key),
        )  # fmt: skip

    near = telling_time(cfg, cards, "token_cosine")
    told = telling_time(cfg, cards, "linear_probe")
    voted = telling_time(cfg, cards, "knn_probe")
    fd = _distance(new)
    found = [
        better(
            f"token_cosine_{LINEAR}_{near}", "tokens: cosine with the teacher's",
            "Best linear map from features to the teacher's tokens, held-out images.",
            required=True,
        ),
        better(
            f"similarity_mae_{near}", "images: similarities as the teacher's",
            "Error of the cosines of image pairs, of the features themselves. Lower is better.",
            required=False,
        ),
        better(
            f"mutual_knn_k1_{near}", "images: nearest neighbour as the teacher's",
            "Share of images whose nearest neighbour is the teacher's too.", required=False,
        ),
    ]  # fmt: skip
    if new.get(f"linear_probe_{told}") is not None:
        found += [
            better(
                f"linear_probe_{told}", "features: linear probe",
                "Are classes easier to read off the features?", required=True,
            ),
            better(
                f"knn_probe_{voted}", "features: k-NN probe",
                "Do neighbours share their class more often?", required=True,
            ),
        ]  # fmt: skip
    found.append(
        within_percent(
            new.get(fd),
            other.get(fd),
            TOLERANCE,
            name="generation: Fréchet distance",
            meaning="Are generated images as close to real ones as before? Same noise and texts. "
            "Lower is better.",
            difference=joint_difference(new, other, fd),
        )
    )
    return found


def _distance(card: LatentCard) -> str:
    return next((m.name for m in card if m.metric in ("fd", "fid")), "fd")


# Sections -----------------------------------------------------------------------------------------


def _rows(cards: Cards, names: Sequence[str]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for name in names:
        cells = [card.get(name) for card in cards.values()]
        if any(cells):
            rows.append([name, *cells])
    return rows


def _names(cards: Cards, *metrics: str) -> list[str]:
    return list(
        dict.fromkeys(m.name for card in cards.values() for m in card if m.metric in metrics)
    )


def _alignment(cfg: UREPAConfig, cards: Cards) -> Section:
    """How near features are to the teacher, after the best linear map and after the head."""
    names = _names(cards, "token_cosine", "similarity_mae", "mutual_knn")
    table = Table(
        ["measurement", *cards], _rows(cards, names),
        "Nearness to the teacher at every noise level t, held-out images.",
    )  # fmt: skip
    text = (
        f"`{LINEAR}`: after the best linear map, fitted on training images: the same measure for "
        f"all networks. `{HEAD}`: after the alignment head, which only the aligned network has. "
        "Without either: the features themselves."
    )
    return Section("Alignment", text, [table])


_PROBES = {"linear_probe": "linear probe", "knn_probe": "k-NN probe"}


def _features(cards: Cards, teacher: LatentCard) -> Section | None:
    """Probes over noise levels, and what the teacher reaches."""
    names = _names(cards, "linear_probe", "knn_probe")
    if not names:
        return None
    panels: dict[str, Any] = {}
    for metric, title in _PROBES.items():
        lines = {}
        for arm, card in cards.items():
            points = [(t, m.value) for t, n in measured_times(card, metric) if (m := card.get(n))]
            lines[arm] = ([t for t, _ in points], [y for _, y in points])
        panels[title] = lines
    figure = curves(panels, caption="Accuracy by noise level.", x_label="noise level t")
    table = Table(["measurement", *cards], _rows(cards, names), "Probes on mean-pooled features.")
    told = [f"{_PROBES[m.metric]} {m.value:.1%}" for m in teacher if m.metric in _PROBES]
    text = f"The teacher's own tokens, mean-pooled: {', '.join(told)}." if told else ""
    return Section("Features", text, [figure, table])


def _generation(cfg: UREPAConfig, cards: Cards) -> Section:
    """Scores and pictures, from the same noise and texts."""
    metrics = ("fd", "fid", "kid", "precision", "recall", "density", "coverage", "clip_score")
    items: list[Table | Figure] = [
        Table(["measurement", *cards], _rows(cards, _names(cards, *metrics)), "Generated images.")
    ]
    n, shown = cfg.evaluate.grid, list[tuple[str, Tensor]]()
    for arm, card in cards.items():
        if "samples" in card.figures:
            shown.append((arm, card.figures["samples"][:n]))
    if shown:
        caption = "Generated from the same noise and texts."
        items.append(image_grid(shown, caption=caption, alt="Generated images of every network."))
    text = "Distances to held-out images in the teacher's own feature space: no FID."
    return Section("Generation", text, items)


def _training(cfg: UREPAConfig, run: Run) -> Section | None:
    """What trained, what it cost, and the losses beside that of a network that says nothing."""
    logs, rows = {}, []
    for stage in ("denoiser", UNALIGNED, ALIGNED):
        if not run.stage_done(stage):
            continue
        summary = run.summary(stage)
        logs[stage] = read_metrics(Path(summary["training"]) / "metrics.jsonl", summary["samples"])
        counts = summary.get("parameters", {})
        numbers = [counts.get(name) for name in ("unet", "lora", "head", "trainable")]
        rows.append([stage, summary["samples"], summary["seconds"], *numbers])
    if not rows:
        return None
    figure = training_curves(logs, caption="Training and validation (fixed batch, noise, times).")
    heads = ["stage", "samples", "seconds", "U-Net", "LoRA", "head", "of the U-Net trained"]
    text = (
        "`zero` is the denoising loss of a network that says 0 always: a loss above it means that "
        "objective and network do not fit each other."
    )
    table = Table(heads, rows, "Parameters as counted, samples, seconds.")
    return Section("Training", text, [*([figure] if figure else []), table])
