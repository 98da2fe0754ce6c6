"""The one stage of the measure recipe."""

import math
from dataclasses import replace

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.load import open_autoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.splits import Splits
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.metrics.autoencoder_card import measure_autoencoder, metric_lpips
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import save_card
from latentsmith.metrics.stored import measure_stored, open_reconstructions
from latentsmith.recipes.measure.config import MeasureConfig
from latentsmith.reports.card import card, card_figures, write_card
from latentsmith.reports.console import print_verdict
from latentsmith.reports.content import Report
from latentsmith.stores.base import FeatureStore
from latentsmith.training.team import Team


def measure(cfg: MeasureConfig, run: Run) -> None:
    """Measure and write ``card.html``, ``card.json``; done before is done.

    Several processes share the references; the first one measures, the others wait.

    Raises:
        UserError: autoencoder, data or encoder cannot be had, or do not fit each other.
    """
    team = Team.join(several_objectives=False)
    if team.on_main(lambda: run.stage_done("card")):
        return
    autoencoder = open_autoencoder(cfg.autoencoder).to(team.device)
    autoencoder.latent_shape(cfg.transform.resolution)  # a misfit shows before data are fetched
    stored = None
    if cfg.reconstructions is not None:
        stored = open_reconstructions(cfg.reconstructions, autoencoder)
    images = Splits(cfg.data, count=cfg.count, probe_count=cfg.probe_count)
    # fetched, and read through, by one process
    team.on_main(lambda: [part.digest for part in (images.train, images.val)])
    spaces = ReferenceSpaces(
        {"encoder": cfg.encoder, **cfg.more_references}, cfg.transform, images.train, team,
        batch_size=cfg.card.batch_size,
    )  # fmt: skip
    spaces.share(images.val)
    team.on_main(lambda: _measure(cfg, run, autoencoder, images, spaces, stored))


def _measure(
    cfg: MeasureConfig,
    run: Run,
    autoencoder: Autoencoder,
    images: Splits,
    spaces: ReferenceSpaces,
    stored: FeatureStore | None,
) -> None:
    measured = measure_autoencoder(
        autoencoder,
        images.val,
        spaces,
        probe=images.probe,
        lpips=metric_lpips(cfg.lpips, cfg.lpips_trunk, required=False),
        cfg=cfg.card,
    )
    if stored is not None:
        measured = _with_stored(measured, measure_stored(stored, cfg=cfg.card))
    save_card(measured, run.path / "measurements")
    report = _report(cfg, autoencoder, measured)
    page = write_card(run.path, report)
    both = (images.train, images.val)
    run.note("data", {d.name: {"digest": d.digest, "origin": d.origin} for d in both})
    run.mark_done("card", {"page": page, "digest": autoencoder.digest()})
    print_verdict(report, page)


def _with_stored(measured: LatentCard, stored: LatentCard) -> LatentCard:
    """The card, its numbers of a sample replaced by those of the whole store."""
    known = {m.name for m in stored}
    kept = [m for m in measured if m.name not in known]
    return replace(measured, measurements=kept).extend(stored)


def _report(cfg: MeasureConfig, autoencoder: Autoencoder, measured: LatentCard) -> Report:
    shape = autoencoder.latent_shape(cfg.transform.resolution)
    side = cfg.transform.resolution
    facts = {
        "source": cfg.autoencoder.source,
        "parameters": f"{sum(p.numel() for p in autoencoder.parameters()):,}",
        "weights digest": autoencoder.digest(),
        "images": f"{autoencoder.channels} x {side} x {side}",
        "latents": f"{shape[0]} x {shape[1]} x {shape[2]} = {math.prod(shape):,} numbers",
    }
    return card(
        f"Latent space of {cfg.autoencoder.source}",
        list(measured),
        figures=card_figures(measured.figures, list(measured)),
        not_measured=measured.not_measured,
        subtitle=f"{cfg.data.kind} at {side} x {side}; reference {cfg.encoder.kind}",
        facts=facts,
        config=to_dict(cfg),
    )
