"""Stage C in the report: curves of the Fréchet distance, steps to the baseline's score, samples."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from latentsmith.config.run import Run
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.metrics.seeds import across_seeds, paired_difference
from latentsmith.reports.content import Cell, Figure, Section, Table, Target
from latentsmith.reports.plots import curves, image_grid
from latentsmith.reports.verdicts import above_baseline, below

BASELINE, REGULARIZED = ARMS = "baseline", "regularized"

FEWER = 0.8
"""The source's win: the baseline's final score in at most this part of its samples."""

NOT_RUN = "Stage C has not run: latentsmith run without --until goes on to it"


@dataclass(frozen=True)
class Scores:
    """One arm's scores: seed → samples seen → card."""

    cards: list[dict[int, LatentCard]]

    @property
    def samples(self) -> list[int]:
        """Samples seen at each score, rising."""
        return sorted(self.cards[0])

    @property
    def final(self) -> int:
        """Samples seen at the last score."""
        return self.samples[-1]

    def names(self) -> list[str]:
        """Measurements any card has, in the order of a whole one. A generator that gives NaN for
        a while lacks some."""
        cards = [card for of_seed in self.cards for card in of_seed.values()]
        cards.sort(key=lambda card: -len(card.measurements))
        return list(dict.fromkeys(m.name for card in cards for m in card))

    def values(self, name: str, samples: int) -> list[Measurement]:
        """One measurement per seed."""
        found = [cards[samples].get(name) for cards in self.cards]
        return [m for m in found if m is not None]

    def at(self, name: str, samples: int) -> Measurement | None:
        """Over all seeds, named ``generated_<metric>_at_<samples>_<space>``."""
        values = self.values(name, samples)
        if len(values) < len(self.cards):
            return None
        m = across_seeds(values)
        return replace(m, name=f"generated_{m.metric}_at_{samples}_{m.stamp.space}", metric="")


def load_scores(run: Run) -> dict[str, Scores] | None:
    """Both arms' scores, or None while they are not all there."""
    if not all(run.stage_done(f"generator-{arm}") for arm in ARMS):
        return None
    found = {}
    for arm in ARMS:
        generators = run.summary(f"generator-{arm}")["generators"]
        found[arm] = Scores(
            [{int(n): load_card(Path(f)) for n, f in g["scores"].items()} for g in generators]
        )
    return found


def measurements(scores: Scores) -> list[Measurement]:
    """Everything scored, at every milestone."""
    found = [scores.at(name, n) for n in scores.samples for name in scores.names()]
    return [m for m in found if m is not None]


# Targets ------------------------------------------------------------------------------------------


def targets(scores: dict[str, Scores] | None) -> list[Target]:
    """Lower final Fréchet distance, and fewer samples to the baseline's; either is a win. One
    that a generator spoilt (NaN) is "not measured"."""
    if scores is None:
        meaning = "Does a generator learn faster on these latents?"
        bar = "lower, or in 20 % fewer samples"
        return [
            Target("C: generation", meaning, None, bar, "not measured", NOT_RUN, required=False)
        ]
    found = []
    for name in distances(scores):
        found += [_final(scores, name), _faster(scores, name)]
    return found


def distances(scores: dict[str, Scores]) -> list[str]:
    """Names of the Fréchet distances, one per feature space."""
    return [n for n in _names(scores) if n.startswith(("fd_", "fid"))]


def _names(scores: dict[str, Scores]) -> list[str]:
    return list(dict.fromkeys(name for arm in ARMS for name in scores[arm].names()))


def _space(name: str) -> str:
    return name.removeprefix("fd_")


def _final(scores: dict[str, Scores], name: str) -> Target:
    new, base = scores[REGULARIZED], scores[BASELINE]
    return above_baseline(
        new.at(name, new.final), base.at(name, base.final), required=False,
        name=f"C: Fréchet distance of generated images ({_space(name)})",
        meaning=f"Are images generated after {new.final:,} samples of training closer to real "
        "ones? Same generator, start, order, noise and labels. Lower is better.",
        difference=_difference(scores, name),
    )  # fmt: skip


def _difference(scores: dict[str, Scores], name: str) -> tuple[float, float] | None:
    """Over seeds where there are several; else over the generated images, which share their noise
    and labels."""
    new, base = scores[REGULARIZED], scores[BASELINE]
    if len(new.cards) == 1:
        return joint_difference(new.cards[0][new.final], base.cards[0][base.final], name)
    pairs = [side.values(name, side.final) for side in (new, base)]
    return paired_difference(*pairs) if len(pairs[0]) == len(pairs[1]) else None


def _faster(scores: dict[str, Scores], name: str) -> Target:
    return below(
        samples_to_baseline(scores, name), FEWER, required=False,
        name=f"C: samples to the baseline's final score ({_space(name)})",
        meaning="Part of the baseline's training after which the regularized arm's generator is "
        "as good as the baseline's at its end.",
    )  # fmt: skip


def samples_to_baseline(scores: dict[str, Scores], name: str) -> Measurement | None:
    """Part of the baseline's samples the other arm needs; infinite when it never gets there. None
    where either arm's end was not measured under every seed."""
    new, base = scores[REGULARIZED], scores[BASELINE]
    ends = base.values(name, base.final)
    last = new.values(name, new.final)
    if not len(ends) == len(last) == len(base.cards):
        return None
    found = []
    for cards, bar, like in zip(new.cards, ends, last, strict=True):
        curve = {n: m.value for n, card in cards.items() if (m := card.get(name)) is not None}
        part = crossing(curve, bar.value) / base.final
        found.append(
            replace(
                like, name=f"samples_to_baseline_{_space(name)}", metric="", value=part,
                interval=None, draws=None, baseline=None, unit="",
            )
        )  # fmt: skip
    return across_seeds(found)


def crossing(curve: dict[int, float], bar: float) -> float:
    """Samples at which a falling curve first is at or below ``bar``: linear between scores, the
    first score's samples when it is already there, infinity when it never is."""
    points = sorted(curve.items())
    for (n0, y0), (n1, y1) in pairwise(points):
        if y0 <= bar:
            return n0
        if y1 <= bar:
            return n0 + (n1 - n0) * (y0 - bar) / (y0 - y1)
    return points[-1][0] if points[-1][1] <= bar else math.inf


# Section ------------------------------------------------------------------------------------------


def section(scores: dict[str, Scores] | None, columns: int) -> Section | None:
    """Curves, the numbers behind them, and what both arms make of the same noise."""
    if scores is None:
        return None
    items: list[Table | Figure] = [_curves(scores), _table(scores), *_grids(scores, columns)]
    seeds = len(scores[BASELINE].cards)
    text = (
        "The same generator, trained on both arms' cached latents from the same start, in the same "
        f"order, with the same noise; {seeds} seed{'s' if seeds > 1 else ''} each. Scores compare "
        "generated with held-out images and are no FID: the feature space is named."
    )
    return Section("Generation", text, items)


def _curves(scores: dict[str, Scores]) -> Figure:
    panels = {}
    for name in distances(scores):
        lines = {}
        for arm, found in scores.items():
            points = [(n, m.value) for n in found.samples if (m := found.at(name, n)) is not None]
            lines[arm] = ([n for n, _ in points], [y for _, y in points])
        panels[f"Fréchet distance, {_space(name)}"] = lines
    return curves(panels, caption="Fréchet distance of generated images as training goes.")


def _table(scores: dict[str, Scores]) -> Table:
    base = scores[BASELINE]
    rows: list[list[Cell]] = []
    for name in _names(scores):
        for n in base.samples if name in distances(scores) else [base.final]:
            rows.append([name, n, *(scores[arm].at(name, n) for arm in ARMS)])
    return Table(["measurement", "samples seen", *ARMS], rows, "Scores of generated images.")


def _grids(scores: dict[str, Scores], columns: int) -> list[Figure]:
    shown = {
        arm: found.cards[0][found.final].figures.get("samples") for arm, found in scores.items()
    }
    rows: list[tuple[str, Tensor]] = []
    for start in (0, columns):
        for arm, images in shown.items():
            if images is not None and len(images) >= start + columns:
                rows.append((arm, images[start : start + columns]))
    if not rows:
        return []
    caption = "Generated from the same noise and labels, one class after the other."
    return [image_grid(rows, caption=caption, alt="Generated images of both arms.")]
