"""The one stage of the measure recipe."""

import math

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.load import open_autoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.subset import draw
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.metrics.autoencoder_card import measure_autoencoder, metric_lpips
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.measure.config import MeasureConfig
from latentsmith.reports.card import card, card_figures, write_card
from latentsmith.reports.console import print_verdict
from latentsmith.reports.content import Report
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root


def measure(cfg: MeasureConfig, run: Run) -> None:
    """Measure and write ``card.html``, ``card.json``; done before is done.

    Raises:
        UserError: autoencoder, data or encoder cannot be had, or do not fit each other.
    """
    if run.stage_done("card"):
        return
    team = Team.join(several_objectives=False)
    autoencoder = open_autoencoder(cfg.autoencoder).to(team.device)
    autoencoder.latent_shape(cfg.transform.resolution)  # a misfit shows before data are fetched
    train = cfg.data.build("train", cache_root() / "data")
    val = draw(cfg.data.build("val", cache_root() / "data"), cfg.count)
    spaces = ReferenceSpaces(
        {"encoder": cfg.encoder, **cfg.more_references}, cfg.transform, train, team,
        batch_size=cfg.card.batch_size,
    )  # fmt: skip
    measured = measure_autoencoder(
        autoencoder,
        val,
        spaces,
        probe=draw(train, cfg.probe_count),
        lpips=metric_lpips(cfg.lpips, cfg.lpips_trunk, required=False),
        cfg=cfg.card,
    )
    save_card(measured, run.path / "measurements")
    report = _report(cfg, autoencoder, measured)
    page = write_card(run.path, report)
    run.note("data", {d.name: {"digest": d.digest, "origin": d.origin} for d in (train, val)})
    run.mark_done("card", {"page": page, "digest": autoencoder.digest()})
    print_verdict(report, page)


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
