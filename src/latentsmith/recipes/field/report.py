"""Does a latent bottleneck make reconstructions of sparse fields agree across resolutions?"""

from dataclasses import replace
from pathlib import Path

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.field.autoencoders import MAIN, UNTRAINED, stage_of
from latentsmith.recipes.field.config import FieldConfig
from latentsmith.reports.console import publish
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target
from latentsmith.reports.plots import image_grid, training_curves
from latentsmith.reports.verdicts import above, above_baseline
from latentsmith.training.trackers import read_metrics

NAMES = {
    "mean": "mean value",
    "nearest": "nearest neighbour",
    "linear": "Delaunay, linear",
    "cubic": "Delaunay, cubic",
    "thin_plate": "thin-plate splines",
    "kriging": "kriging",
    "bicubic_of_all": "bicubic of all lattice points (more is given)",
    UNTRAINED: "autoencoder before training",
    "values": "flow of values, told the code",
    "mamba_flow": "flow of values, no latent (baseline)",
    "minimal_bottleneck": "the same, minimal bottleneck (baseline)",
}
"""Method → its name in tables; autoencoders are named by their decoders."""
MARGINS = {64: 2.0, 96: 3.0}
"""dB by which the source wants to beat the RGB-flow baseline, by side."""
INVARIANT = 80.0
"""dB of agreement above which two decodings are the same to float32."""

Cards = dict[str, LatentCard]


def write(cfg: FieldConfig, run: Run) -> Path:
    """Write ``report.html`` and ``report.json`` of a measured run and print the verdict; returns
    the page."""
    names = run.summary("measure")["methods"]
    cards = {name: load_card(run.path / "measurements" / name) for name in names}
    return publish(build(cfg, run, cards), run.path)


def named(cfg: FieldConfig, method: str) -> str:
    """A method's name in tables."""
    if method == MAIN:
        return f"autoencoder, {cfg.field.decoder.kind} decoder"
    if method in cfg.compare:
        return f"autoencoder, {cfg.compare[method].kind} decoder ({method})"
    return NAMES.get(method, method)


def build(cfg: FieldConfig, run: Run, cards: Cards) -> Report:
    """The report's content from every method's card."""
    card, latent = cards[MAIN], cfg.field.latent
    floats = latent.tokens * latent.channels
    sections = [
        _fidelity(cfg, cards),
        _differences(cfg, cards),
        _consistency(cfg, cards),
        _pictures(cfg, cards),
        _draws(cfg, cards),
        _code(card),
        _training(cfg, run),
    ]
    return Report(
        title="Sparse fields: values at any coordinate from a latent code",
        subtitle=f"{cfg.field.mixer.kind} encoder, {latent.tokens} tokens of {latent.channels}; "
        f"{next(iter(card)).stamp.data}",
        lead=f"{cfg.evaluate.inputs} of {cfg.field.lattice}² lattice points are given "
        f"({cfg.evaluate.inputs * (cfg.field.dims + cfg.field.channels):,} numbers), the code is "
        f"{floats:,} numbers, everything else is asked.",
        targets=targets(cfg, cards),
        sections=[section for section in sections if section is not None],
        measurements={named(cfg, name): list(c) for name, c in cards.items()},
        config=to_dict(cfg),
        manifest=run.manifest,
        run=str(run.path),
    )


def targets(cfg: FieldConfig, cards: Cards) -> list[Target]:
    """Against interpolation and the RGB-flow baseline. What the source asks is beyond the linear
    one; the best of those without learning is a target, too, though no required one."""
    found, card = list[Target](), cards[MAIN]
    fine = [side for side in cfg.evaluate.resolutions if side > cfg.field.lattice]
    for side in fine:
        if "linear" in cards:
            found.append(_beats(cards, "linear", f"psnr_{side}", f"PSNR at {side} beyond linear"))
    for side in fine:
        best = _best_unlearned(cfg, cards, f"psnr_{side}")
        if best is not None:
            name = f"PSNR at {side} beyond {named(cfg, best)}, the best without learning"
            found.append(_beats(cards, best, f"psnr_{side}", name, required=False))
    for side in fine:
        if "mamba_flow" in cards:
            gain = difference(cards, "mamba_flow", f"psnr_{side}")
            name = f"PSNR at {side} above the RGB flow's"
            found.append(above(gain, MARGINS.get(side, 0.0), name=name, required=False))
    for m in card:
        if m.name.startswith("agreement_") and "_boxes" in m.name and "mamba_flow" in cards:
            name = "agreement across resolutions beyond the RGB flow's"
            found.append(_beats(cards, "mamba_flow", m.name, name))
    return found


def _beats(cards: Cards, other: str, key: str, name: str, *, required: bool = True) -> Target:
    return above_baseline(
        cards[MAIN].get(key),
        cards[other].get(key),
        name=name,
        required=required,
        difference=joint_difference(cards[MAIN], cards[other], key),
    )


def _best_unlearned(cfg: FieldConfig, cards: Cards, key: str) -> str | None:
    """The method of `EvaluateConfig.interpolation` with the highest value."""
    values = {name: cards[name].get(key) for name in cfg.evaluate.interpolation if name in cards}
    found = {name: m.value for name, m in values.items() if m is not None}
    return max(found, key=found.__getitem__) if found else None


def difference(cards: Cards, other: str, key: str) -> Measurement | None:
    """The autoencoder's value less another method's on the same images, with its interval."""
    own, their = cards[MAIN].get(key), cards[other].get(key)
    if own is None or their is None:
        return None
    interval = joint_difference(cards[MAIN], cards[other], key)
    return replace(own, value=own.value - their.value, interval=interval, baseline=None, draws=None)


def _table(cfg: FieldConfig, cards: Cards, names: list[str], caption: str) -> Table:
    """One row for each method, one column for each measurement."""
    rows: list[list[Cell]] = [
        [named(cfg, method), *(card.get(name) for name in names)]
        for method, card in cards.items()
        if any(card.get(name) is not None for name in names)
    ]
    return Table(["method", *names], rows, caption)


def _fidelity(cfg: FieldConfig, cards: Cards) -> Section:
    sides = cfg.evaluate.resolutions
    text = (
        "Against area means of the original. Pixels coarser than the finest are means of the "
        "decoded function over their cell, where a decoder is a function of the coordinate. "
        "Methods without learning are the floor: what does not beat them is no result."
    )
    tables = [
        _table(cfg, cards, [f"{metric}_{side}" for side in sides], caption)
        for metric, caption in (("psnr", "PSNR by side."), ("ssim", "SSIM by side."))
    ]
    seen = [m.name for m in cards[MAIN] if m.metric == "perceptual_distance"]
    tables.append(
        _table(cfg, cards, seen, "Squared distance of an encoder's features, at the finest.")
    )
    known = [f"{name}_{cfg.field.lattice}" for name in ("observed_psnr", "unobserved_psnr")]
    return Section(
        "Fidelity", text, [*tables, _table(cfg, cards, known, "Given and other points.")]
    )


def _differences(cfg: FieldConfig, cards: Cards) -> Section:
    """The autoencoder against every other method, paired."""
    names = [f"psnr_{side}" for side in cfg.evaluate.resolutions]
    rows: list[list[Cell]] = [
        [named(cfg, method), *(difference(cards, method, name) for name in names)]
        for method in cards
        if method != MAIN
    ]
    text = (
        "On the same images and points, so that what images add to both is gone; positive: the "
        "autoencoder is better. An interval that holds 0 says nothing. Images are counted as "
        "independent, which pieces of one photograph are not: true intervals are wider."
    )
    caption = "PSNR of the autoencoder less that of others, 95 % interval."
    return Section("What it is better by", text, [Table(["less", *names], rows, caption)])


def _consistency(cfg: FieldConfig, cards: Cards) -> Section:
    names = list(
        dict.fromkeys(m.name for card in cards.values() for m in card if m.metric == "agreement")
    )
    rough = [f"roughness_{s}" for s in cfg.evaluate.resolutions if s > cfg.field.lattice]
    text = (
        f"PSNR between two decodings of the same code, without truth; above {INVARIANT:g} dB they "
        "are the same. points: the fine decoding at the coarse one's coordinates; boxes: its means "
        "over the coarse cells; queries: a tenth of the points asked alone, or all in another "
        "order. Roughness: Laplacian energy over the truth's (1 is right, above 2 wiggles)."
    )
    answer = _answer(cards)
    items: list[Table | Figure] = [
        _table(cfg, cards, names, "Agreement."),
        _table(cfg, cards, rough, "Roughness."),
    ]
    return Section("Consistency across resolutions", f"{text} {answer}", items)


def _answer(cards: Cards) -> str:
    """The source's question, from the two baselines."""
    if not {"mamba_flow", "minimal_bottleneck"} <= cards.keys():
        return ""
    key = next((m.name for m in cards["mamba_flow"] if m.name.endswith("_boxes")), None)
    plain = cards["mamba_flow"].get(key) if key else None
    squeezed = cards["minimal_bottleneck"].get(key) if key else None
    if key is None or plain is None or squeezed is None:
        return ""
    found = joint_difference(cards["minimal_bottleneck"], cards["mamba_flow"], key)
    gain = squeezed.value - plain.value
    interval = "" if found is None else f" [{found[0]:+.2f}, {found[1]:+.2f}]"
    clear = found is not None and (found[0] > 0 or found[1] < 0)
    verdict = ("it does" if gain > 0 else "it makes it worse") if clear else "not clearly"
    return (
        "Does a bottleneck of the tokens alone improve consistency, the source's question? "
        f"{gain:+.2f} dB{interval} of agreement: {verdict}."
    )


def _pictures(cfg: FieldConfig, cards: Cards) -> Section:
    figures = []
    for side in cfg.evaluate.resolutions:
        rows = [
            (named(cfg, method), card.figures[str(side)])
            for method, card in cards.items()
            if str(side) in card.figures
        ]
        if "given" in cards[MAIN].figures and side == cfg.field.lattice:
            rows = [("given points", cards[MAIN].figures["given"]), *rows]
        if f"truth_{side}" in cards[MAIN].figures:
            rows.append(("truth", cards[MAIN].figures[f"truth_{side}"]))
        caption = f"Held-out fields at {side} x {side}."
        figures.append(image_grid(rows, caption=caption, alt=f"Reconstructions at {side}."))
    return Section("Pictures", "", figures)


def _draws(cfg: FieldConfig, cards: Cards) -> Section | None:
    names = list(dict.fromkeys(m.name for card in cards.values() for m in card if "draw" in m.name))
    if not names:
        return None
    text = (
        "Distortion and perception apart: a draw of the true posterior has twice the squared error "
        "of its mean, so single draws should lie 3 dB below the mean of many. Spread: the variance "
        "of draws over the error of their mean. 1: they say how uncertain they are; below: they "
        "differ less than they err; above: more."
    )
    return Section("Draws", text, [_table(cfg, cards, names, "Draws of the flows of values.")])


def _code(card: LatentCard) -> Section:
    metrics = (
        *("fd", "fid", "kid", "precision", "recall", "density", "coverage", "linear_probe"),
        *("path_unevenness", "path_bend", "path_middle_gradient", "path_blend_gradient"),
        *("path_length", "path_length_cv", "off_manifold"),
    )
    rows: list[list[Cell]] = [[m.name, m] for m in card if m.metric in metrics]
    items: list[Table | Figure] = [Table(["measurement", "value"], rows, "Of the main code.")]
    if "generated" in card.figures:
        images = card.figures["generated"]
        items.append(
            image_grid(
                [("", part) for part in images.split(SHOWN)],
                caption="Drawn from the latent flow.", alt="Generated images.",
            )
        )  # fmt: skip
    if "path" in card.figures:
        rows_ = [("codes", card.figures["path"]), ("pixels", card.figures["blend"])]
        caption = "From one held-out field to another: between codes, and between pixels."
        items.append(image_grid(rows_, caption=caption, alt="Interpolations."))
    text = (
        "New fields from the latent flow; the way between two codes (gradient energy at the middle "
        "over that of the ends: a blend of pixels is a double exposure; length, evenness and "
        "distance of the middles from real images in an encoder's features, beside the blend's); "
        "a linear probe."
    )
    return Section("The code", text, items)


SHOWN = 8
"""Images per row of the grids."""


def _training(cfg: FieldConfig, run: Run) -> Section | None:
    """What trained and what it cost."""
    logs, rows = {}, list[list[Cell]]()
    stages = [*(stage_of(arm) for arm in (MAIN, *cfg.compare)), "latent", *cfg.flows.make]
    for stage in stages:
        if not run.stage_done(stage):
            continue
        summary = run.summary(stage)
        logs[stage] = read_metrics(Path(summary["training"]) / "metrics.jsonl", summary["samples"])
        counts = ", ".join(f"{n:,} {what}" for what, n in summary["parameters"].items())
        rows.append([stage, summary["samples"], summary["seconds"], counts])
    if not rows:
        return None
    figure = training_curves(logs, caption="Training and validation (fixed batch and noise).")
    table = Table(["stage", "samples", "seconds", "parameters"], rows, "As counted.")
    return Section("Training", "", [*([figure] if figure else []), table])
