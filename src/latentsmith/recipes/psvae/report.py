"""Does one latent space keep what the encoder sees and how it looks, and can one generate in it?"""

from collections.abc import Sequence
from pathlib import Path

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.psvae.autoencoders import STAGE
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig
from latentsmith.recipes.psvae.generators import stage_of
from latentsmith.reports.console import publish
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target
from latentsmith.reports.plots import image_grid, training_curves
from latentsmith.reports.verdicts import above, above_baseline
from latentsmith.training.trackers import read_metrics

NAMES: dict[Arm, str] = {"vae": "pixel VAE", "rae": "RAE", "svae": "S-VAE", "psvae": "PS-VAE"}
SHOWN = 8
"""Images per row of the grids."""
ATTRIBUTES = 0.8
"""Share of generated images whose every mentioned attribute must be right; and of edits done."""
KEPT = 0.9
"""Share of untouched attributes that edits must keep."""

RECONSTRUCTED = "_reconstructed"
"""End of the names of what is measured of reconstructions."""
OF_BOTH = ("attribute_accuracy", "fd", "fid")
"""Metrics of generated images that are measured of reconstructions, too."""

Cards = dict[Arm, LatentCard]


def write(cfg: PSVAEConfig, run: Run) -> Path:
    """Write ``report.html`` and ``report.json`` of a measured run and print the verdict; returns
    the page."""
    cards: Cards = {arm: load_card(run.path / "measurements" / arm) for arm in cfg.arms}
    return publish(build(cfg, run, cards), run.path)


def build(cfg: PSVAEConfig, run: Run, cards: Cards) -> Report:
    """The report's content from every arm's card."""
    card = cards["psvae"]
    sections = [
        _spaces(cfg, run, cards),
        _reconstruction(cards),
        _generation(cards),
        _editing(cards),
        _training(cfg, run),
    ]
    return Report(
        title="PS-VAE: one latent space for features and pixels, to generate and edit in",
        subtitle=f"{cfg.autoencoder.encoder.kind}, {cfg.autoencoder.projector.kind} projector; "
        f"{next(iter(card)).stamp.data}",
        lead=_lead(card),
        targets=targets(cards),
        sections=[section for section in sections if section is not None],
        measurements={NAMES[arm]: list(c) for arm, c in cards.items()},
        config=to_dict(cfg),
        manifest=run.manifest,
        run=str(run.path),
    )


def _lead(card: LatentCard) -> str:
    psnr, probe, joint = (
        card.get(n) for n in ("psnr", "linear_probe_latent", "attribute_accuracy_joint")
    )
    parts = []
    if psnr is not None:
        parts.append(f"PS-VAE gives pixels back with {psnr.value:.1f} dB")
    if probe is not None:
        parts.append(f"a linear probe of its latent names {probe.value:.1%} of the classes")
    if joint is not None:
        parts.append(f"{joint.value:.1%} of images made from captions show all they mention")
    return "; ".join(parts) + "." if parts else "Not everything could be measured."


# Targets ------------------------------------------------------------------------------------------


def targets(cards: Cards) -> list[Target]:
    """Against the other arms where they were made, and against numbers for texts and edits."""
    card = cards["psvae"]
    found = []
    if "svae" in cards:
        found.append(_beats(cards, "svae", "psnr", "pixels: PSNR beyond S-VAE's"))
    if "vae" in cards:
        name = "semantics: linear probe beyond the pixel VAE's"
        found.append(_beats(cards, "vae", "linear_probe_latent", name))
    if "rae" in cards:
        name = "on manifold: generated images nearer to real ones than RAE's"
        found.append(_beats(cards, "rae", "off_manifold_images", name))
    asked = [
        ("attribute_accuracy_joint", ATTRIBUTES, "text: all mentioned attributes right"),
        ("edit_accuracy_changed", ATTRIBUTES, "editing: the requested attribute right"),
        ("edit_accuracy_kept", KEPT, "editing: untouched attributes kept"),
    ]
    for key, bound, name in asked:
        m = card.get(key)
        if m is not None:
            found.append(above(m, bound, name=name, required=True, by="value"))
    return found


def _beats(cards: Cards, other: Arm, key: str, name: str) -> Target:
    return above_baseline(
        cards["psvae"].get(key),
        cards[other].get(key),
        name=name,
        required=True,
        difference=joint_difference(cards["psvae"], cards[other], key),
    )


# Sections -----------------------------------------------------------------------------------------


def _table(cards: Cards, metrics: Sequence[str], caption: str, of: str = "") -> Table:
    """Every measurement of some metrics, one column for each arm; what is measured of generated and
    of reconstructed images alike, ``of`` one of them."""
    names = dict.fromkeys(
        m.name
        for card in cards.values()
        for m in card
        if m.metric in metrics
        and (m.metric not in OF_BOTH or m.name.endswith(RECONSTRUCTED) == bool(of))
    )
    rows: list[list[Cell]] = [[name, *(c.get(name) for c in cards.values())] for name in names]
    return Table(["measurement", *(NAMES[arm] for arm in cards)], rows, caption)


def _grid(cards: Cards, names: Sequence[str], caption: str, alt: str) -> list[Figure]:
    rows = [
        (name if len(cards) == 1 else f"{NAMES[arm]}: {name}", card.figures[name][:SHOWN])
        for arm, card in cards.items()
        for name in names
        if name in card.figures
    ]
    return [image_grid(rows, caption=caption, alt=alt)] if rows else []


def _spaces(cfg: PSVAEConfig, run: Run, cards: Cards) -> Section:
    """The source's table, with what was measured."""
    rows: list[list[Cell]] = []
    for arm, card in cards.items():
        found = [card.get(name) for name in COLUMNS.values()]
        rows.append([NAMES[arm], *_what(cfg, arm), *found, _distance(card)])
    heads = ["latent space", "channels", "KL", *COLUMNS, "generation: Fréchet distance"]
    text = (
        "Semantic: accuracy of a linear probe of the latent's mean over positions. On manifold: "
        "distance of generated images' feature tokens to real ones, over that of real ones to each "
        "other (1 is as near). Generation: Fréchet distance of images made from captions, in the "
        "vision encoder's space."
    )
    return Section("Latent spaces", text, [Table(heads, rows, "The source's table, measured.")])


COLUMNS = {
    "pixels: PSNR": "psnr",
    "semantic: probe": "linear_probe_latent",
    "off manifold": "off_manifold_images",
    "attributes right": "attribute_accuracy_joint",
}
"""Head → measurement of the table of latent spaces."""


def _distance(card: LatentCard) -> Measurement | None:
    """Fréchet distance of generated images; the encoder's name is a part of its own."""
    return next((m for m in card if m.metric == "fd" and not m.name.endswith(RECONSTRUCTED)), None)


def _what(cfg: PSVAEConfig, arm: Arm) -> list[str]:
    if arm == "vae":
        return [str(cfg.vae.autoencoder.shape()["latent_channels"]), f"{cfg.vae.objective.kl:g}"]
    if arm == "rae":
        return ["the features'", "none"]
    objective = cfg.svae.objective if arm == "svae" else cfg.pixel.objective
    return [str(cfg.autoencoder.latent_channels or "the features'"), f"{objective.kl:g}"]


def _reconstruction(cards: Cards) -> Section:
    metrics = ("psnr", "ssim", "fd", "fid", "feature_mse", "token_cosine", "linear_probe",
               "attribute_accuracy")  # fmt: skip
    caption = "Held-out images; features against the frozen encoder's."
    table = _table(cards, metrics, caption, of=RECONSTRUCTED)
    arms = dict(list(cards.items())[:1])
    grid = _grid(arms, ["images"], "Held-out images.", "Images.")
    grid += _grid(cards, ["reconstructed"], "Their reconstructions.", "Reconstructions.")
    return Section("Reconstruction", "", [table, *grid])


def _generation(cards: Cards) -> Section:
    metrics = ("fd", "fid", "kid", "precision", "recall", "density", "coverage", "clip_score",
               "off_manifold", "attribute_accuracy")  # fmt: skip
    items: list[Table | Figure] = [_table(cards, metrics, "Images from held-out captions.")]
    items += _grid(cards, ["samples"], "Made from held-out captions.", "Generated images.")
    return Section("Text to image", "", items)


def _editing(cards: Cards) -> Section | None:
    if not any("edited" in card.figures for card in cards.values()):
        return None
    items: list[Table | Figure] = [_table(cards, ("edit_accuracy",), "Held-out images edited.")]
    items += _grid(
        {"psvae": cards["psvae"]}, ["given", "edited", "wanted"],
        "Given, edited as the instruction says, and wanted.", "Edited images.",
    )  # fmt: skip
    return Section("Editing", "", items)


def _training(cfg: PSVAEConfig, run: Run) -> Section | None:
    """What trained and what it cost."""
    logs, rows = {}, list[list[Cell]]()
    names = ["svae", *(STAGE[arm] for arm in cfg.arms), *(stage_of(arm) for arm in cfg.arms)]
    for stage in dict.fromkeys(names):
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
