"""The one stage of the segmentation recipe."""

from dataclasses import replace

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.segments import segment_names
from latentsmith.data.subset import draw
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import save_card
from latentsmith.metrics.segmentation_card import measure_segmentation
from latentsmith.recipes.segmentation.config import SegmentationRecipeConfig
from latentsmith.reports.card import card, write_card
from latentsmith.reports.console import print_verdict
from latentsmith.reports.content import Cell, Report, Section, Table
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root


def measure(cfg: SegmentationRecipeConfig, run: Run) -> None:
    """Fit, measure and write ``card.html``, ``card.json``; done before is done.

    Raises:
        UserError: encoder or data cannot be had, or the data do not know the class of every pixel.
    """
    team = Team.join(several_objectives=False)
    if not team.on_main(lambda: run.stage_done("card")):
        team.on_main(lambda: _measure(cfg, run, team))


def _measure(cfg: SegmentationRecipeConfig, run: Run, team: Team) -> None:
    train = draw(cfg.data.build("train", cache_root() / "data"), cfg.train_count)
    test = draw(cfg.data.build("val", cache_root() / "data"), cfg.count)
    names = segment_names(test)  # before an encoder is loaded
    encoder = cfg.encoder.build().to(team.device)
    probe = replace(cfg.probe, seed=cfg.probe.seed + cfg.seed)
    measured = measure_segmentation(encoder, train, test, cfg.transform.build(), cfg=probe)
    save_card(measured, run.path / "measurements")
    report = _report(cfg, names, measured, f"{len(train):,} images to fit, {len(test):,} measured")
    page = write_card(run.path, report)
    run.note("data", {d.name: {"digest": d.digest, "origin": d.origin} for d in (train, test)})
    run.mark_done("card", {"page": page, "digest": encoder.digest()})
    print_verdict(report, page)


def _report(
    cfg: SegmentationRecipeConfig, names: list[str], measured: LatentCard, images: str
) -> Report:
    report = card(
        f"Segmentation probe of {cfg.encoder.kind}",
        list(measured),
        not_measured=measured.not_measured,
        subtitle=f"{cfg.data.kind}: {images}",
        config=to_dict(cfg),
    )
    return replace(report, sections=[*report.sections, _by_class(names, measured)])


def _by_class(names: list[str], measured: LatentCard) -> Section:
    """IoU of every class, one column for each space."""
    found = {key.removeprefix("class_iou_"): iou for key, iou in measured.figures.items()}
    rows: list[list[Cell]] = [
        [name, *(None if iou[k].isnan() else round(float(iou[k]), 3) for iou in found.values())]
        for k, name in enumerate(names)
    ]
    text = "Intersection over union of each class, over the pixels of all held-out images."
    return Section("Classes", text, [Table(["class", *found], rows)])
