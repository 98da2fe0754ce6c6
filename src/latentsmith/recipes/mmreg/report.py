"""The go/no-go report: spec/1-mm-reg.md's targets, with the evidence under them."""

from pathlib import Path

from torch import Tensor

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.recipes.mmreg.report_generation import (
    Scores,
    load_scores,
    measurements,
)
from latentsmith.recipes.mmreg.report_generation import section as generation_section
from latentsmith.recipes.mmreg.report_generation import targets as generation_targets
from latentsmith.reports.console import publish
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target
from latentsmith.reports.distances import Distances, distance_scatter
from latentsmith.reports.glossary import DISTANCE_CORRELATION
from latentsmith.reports.numbers import number_text
from latentsmith.reports.plots import image_grid, training_curves
from latentsmith.reports.verdicts import above, above_baseline, within_percent
from latentsmith.training.trackers import read_metrics

BASELINE, REGULARIZED = ARMS = "baseline", "regularized"

DISTANCE_TARGET = 0.8
"""The source's target for the distance correlation with the trained reference."""
TOLERANCE = 2.0
"""Per cent of the baseline's reconstruction that may be given up."""

Cards = dict[str, LatentCard]


def write(cfg: MMRegConfig, run: Run) -> Path:
    """Write ``report.html`` and ``report.json`` of a measured run and print the verdict; returns
    the page."""
    cards = {arm: load_card(run.path / "measurements" / arm) for arm in ARMS}
    return publish(build(cfg, run, cards, load_scores(run)), run.path)


def build(
    cfg: MMRegConfig, run: Run, cards: Cards, scores: dict[str, Scores] | None = None
) -> Report:
    """The report's content from both arms' cards and, once it has run, Stage C's scores."""
    sections = [
        _geometry(cfg, cards),
        _trade(cfg, cards),
        _pictures(cfg, cards),
        generation_section(scores, cfg.evaluate.grid),
        _training(run),
    ]
    generated = {arm: measurements(found) for arm, found in (scores or {}).items()}
    return Report(
        title="MM-Reg: do latent distances follow the reference?",
        subtitle=f"{cfg.loss.kind} loss, weight {cfg.loss.weight:g}; reference {cfg.encoder.kind}; "
        f"{cards[BASELINE].measurements[0].stamp.data}",
        lead=_lead(cards),
        targets=targets(cfg, cards) + generation_targets(scores),
        sections=[section for section in sections if section is not None],
        measurements={arm: [*card, *generated.get(arm, [])] for arm, card in cards.items()},
        config=to_dict(cfg),
        manifest=run.manifest,
        run=str(run.path),
    )


def _lead(cards: Cards) -> str:
    r = {arm: cards[arm].get(f"pairdist_pearson_{TRAINED_REFERENCE}") for arm in ARMS}
    psnr = {arm: cards[arm].get("psnr") for arm in ARMS}
    before, after = r[BASELINE], r[REGULARIZED]
    low, high = psnr[REGULARIZED], psnr[BASELINE]
    if before is None or after is None or low is None or high is None:
        return "Not everything could be measured; see the targets."
    change = 100 * (low.value / high.value - 1)
    return (
        f"On {after.stamp.count:,} held-out images the distance correlation with the trained "
        f"reference went from {before.value:.3f} to {after.value:.3f}, and PSNR from "
        f"{high.value:.2f} to {low.value:.2f} dB ({change:+.1f} %)."
    )


def targets(cfg: MMRegConfig, cards: Cards) -> list[Target]:
    """One row per target of the spec's Stages A and B. Geometry and reconstruction are required;
    the rest is evidence, shown with its verdict."""
    base, new = cards[BASELINE], cards[REGULARIZED]
    spaces = _feature_spaces(new)
    distance = f"pairdist_pearson_{TRAINED_REFERENCE}"
    lpips = f"lpips_{cfg.objective.perceptual.net}"

    def kept(key: str, name: str, meaning: str, *, required: bool = False) -> Target:
        return within_percent(
            new.get(key), base.get(key), TOLERANCE, name=name, meaning=meaning, required=required,
            difference=joint_difference(new, base, key),
        )  # fmt: skip

    def better(key: str, name: str, meaning: str) -> Target:
        return above_baseline(
            new.get(key), base.get(key), name=name, meaning=meaning, required=False,
            difference=joint_difference(new, base, key),
        )  # fmt: skip

    return [
        above(
            new.get(distance), DISTANCE_TARGET, name="A: distance correlation, trained reference",
            meaning="Do distances between latents follow the reference's? Pearson over pairs.",
            baseline=base.get(distance),
        ),
        kept("psnr", "A: PSNR", "Is reconstruction kept?", required=True),
        kept("ssim", "A: SSIM", "Is local structure kept?", required=True),
        *(
            kept(
                f"fd_{space}", f"A: Fréchet distance of reconstructions ({space})",
                "Do reconstructions stay as realistic? Not FID: another feature space.",
            )
            for space in spaces
        ),
        kept(lpips, "A: LPIPS", "Needs the trunk's ImageNet weights (objective.perceptual.trunk)."),
        better("linear_probe", "A: linear probe", "Are classes easier to read off the latents?"),
        *(
            better(
                f"ifd_{space}", f"B: decoded midpoints ({space})",
                "Fréchet distance of images decoded between neighbours (iFID's form), the "
                "measurement that predicts generation. Lower is better.",
            )
            for space in spaces
        ),
        better(
            _first(new, "path_length_cv"), "B: evenness of paths",
            "Variation of perceptual speed along straight paths. Lower is smoother.",
        ),
        better(
            _first(new, "path_length"), "B: path length",
            "Perceptual path length along straight paths. Lower is smoother.",
        ),
    ]  # fmt: skip


def _feature_spaces(card: LatentCard) -> list[str]:
    return [m.stamp.space for m in card if m.metric == "fd"]


def _first(card: LatentCard, metric: str) -> str:
    """Full name of the card's first measurement of ``metric`` (its space is in the name)."""
    return next((m.name for m in card if m.metric == metric), metric)


# Sections -----------------------------------------------------------------------------------------


def _geometry(cfg: MMRegConfig, cards: Cards) -> Section:
    """Distance correlation with every reference and the labels, and what the pairs look like."""
    rows: list[list[Cell]] = []
    names = [TRAINED_REFERENCE, *cfg.more_references, "labels"]
    kinds = {TRAINED_REFERENCE: cfg.encoder.kind}
    kinds |= {name: encoder.kind for name, encoder in cfg.more_references.items()}
    for name in names:
        for statistic in ("pearson", "spearman"):
            key = f"pairdist_{statistic}_{name}"
            pair = [cards[arm].get(key) for arm in ARMS]
            if any(pair):
                trained = "trained on" if cfg.terms.get(name, 0) > 0 else "beside"
                shown = kinds.get(name, "class labels")
                rows.append([shown, trained, statistic.capitalize(), *pair])
    table = Table(
        ["reference", "role", "correlation", *ARMS], rows,
        "Distance correlation of held-out images with every reference space.",
    )  # fmt: skip
    items: list[Table | Figure] = [table]
    for name in names[:-1]:
        panels = _panels(cards, name)
        if panels:
            caption = f"Pairs of held-out images: latent against {kinds[name]} distances."
            items.append(distance_scatter(panels, caption=caption, reference=kinds[name]))
    return Section("Geometry", DISTANCE_CORRELATION, items)


def _panels(cards: Cards, name: str) -> list[Distances]:
    panels = []
    for arm, card in cards.items():
        pairs, r = card.figures.get(f"pairs_{name}"), card.get(f"pairdist_pearson_{name}")
        if pairs is not None and r is not None:
            panels.append(Distances(arm, pairs[0], pairs[1], r))
    return panels


def _trade(cfg: MMRegConfig, cards: Cards) -> Section:
    """Reconstruction beside geometry, and how to get the whole curve."""
    rows = []
    for arm, card in cards.items():
        weight = 0.0 if arm == BASELINE else cfg.loss.weight
        cells = [card.get(f"pairdist_pearson_{TRAINED_REFERENCE}"), card.get("linear_probe")]
        rows.append([arm, number_text(weight), *cells, card.get("psnr"), card.get("ssim")])
    table = Table(
        ["arm", "weight", "distance correlation", "linear probe", "PSNR", "SSIM"], rows,
        "Geometry gained against reconstruction given up.",
    )  # fmt: skip
    text = (
        "One weight is one point of the trade-off. The curve over weights comes from "
        "`latentsmith sweep mmreg loss.weight=0,0.1,0.3,1,3` with this run's other settings."
    )
    return Section("Trade-off", text, [table])


def _pictures(cfg: MMRegConfig, cards: Cards) -> Section | None:
    """Reconstructions, paths and midpoints, baseline above regularized."""
    n = cfg.evaluate.grid
    items: list[Table | Figure] = []
    recon = _drawn(cards, "recon")  # [2, 8, C, H, W]: images, reconstructions
    if recon:
        rows = [("original", recon[BASELINE][0][:n]), *((a, v[1][:n]) for a, v in recon.items())]
        caption = "Held-out images and their reconstructions."
        items.append(image_grid(rows, caption=caption, alt="Originals above both arms'."))
    for kind in ("lerp", "slerp"):
        paths = _drawn(cards, f"path_grid_{kind}")  # [paths, steps, C, H, W]
        if paths:
            pairs = range(min(2, len(paths[BASELINE])))
            rows = [(arm, value[i]) for i in pairs for arm, value in paths.items()]
            caption = f"Decoded {kind} paths between two pairs of held-out images."
            items.append(image_grid(rows, caption=caption, alt="Images changing along a path."))
    middle = _drawn(cards, "midpoints")
    if middle:
        rows = [(arm, value[:n]) for arm, value in middle.items()]
        caption = "Decoded midpoints between nearest latent neighbours."
        items.append(image_grid(rows, caption=caption, alt="Images between neighbours."))
    return Section("Pictures", "", items) if items else None


def _drawn(cards: Cards, name: str) -> dict[str, Tensor]:
    """Arm → the figure's tensor; empty unless every arm has it."""
    found = {arm: card.figures[name] for arm, card in cards.items() if name in card.figures}
    return found if len(found) == len(cards) else {}


def _training(run: Run) -> Section | None:
    """Loss curves and what training cost."""
    logs, rows = {}, []
    for stage in ("pretrain", BASELINE, REGULARIZED):
        if not run.stage_done(stage):
            continue
        summary = run.summary(stage)
        logs[stage] = read_metrics(Path(summary["training"]) / "metrics.jsonl", summary["samples"])
        rows.append([stage, summary["samples"], summary["seconds"], summary["model"]])
    if not rows:
        return None
    figure = training_curves(logs, caption="Training and validation (fixed batch, fixed noise).")
    table = Table(["stage", "samples", "seconds", "model (diffusers format)"], rows)
    return Section("Training", "", [*([figure] if figure else []), table])
