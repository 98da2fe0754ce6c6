"""A sweep over named rows: seeds together, differences from what each row names."""

from pathlib import Path

import pytest

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.recipes.textlatent.sweep import compared, labelled
from latentsmith.reports.content import Report
from latentsmith.reports.runs import RunRecord

GAINS = {"A6 base": 0.0, "B1 cycle": 0.1, "C1 control": 0.1}
AGAINST = {"A6 base": [], "B1 cycle": ["A6 base", "C1 control"], "C1 control": ["A6 base"]}


def record(label: str, seed: int) -> RunRecord:
    """Every seed moves all rows alike by more than the rows differ."""
    value = 0.5 + seed + GAINS[label] + (0.001 * seed if label == "B1 cycle" else 0)
    m = Measurement("text_exact", value, Stamp("t", 8), metric="text_exact", higher_is_better=True)
    config = {"label": label, "seed": seed, "against": AGAINST[label]}
    report = Report("", measurements={"model": [m]})
    return RunRecord(f"{label}-{seed}", Path(label), config, report=report)


def test_rows_are_compared_with_what_they_name_seed_by_seed():
    records = [record(label, seed) for label in GAINS for seed in (2, 0, 1)]
    groups = labelled(records)
    assert [(g.name, g.seeds) for g in groups] == [(label, [0, 1, 2]) for label in GAINS]
    against_base, against_control = compared(groups)
    assert "A6 base" in against_base.caption
    assert [row[0] for row in against_base.rows] == ["B1 cycle", "C1 control"]
    assert [row[-1] for row in against_base.rows] == ["better", "better"]
    # what the cycle gains, its control gains too: no gain
    (row,) = against_control.rows
    assert (row[0], row[-1]) == ("B1 cycle", "not told apart")


def test_one_seed_has_no_interval():
    groups = labelled([record(label, 0) for label in GAINS])
    rows = [row for table in compared(groups) for row in table.rows]
    assert {row[-1] for row in rows} == {"one seed: no interval"}


def test_rows_that_were_not_run_are_not_compared():
    groups = labelled([record("B1 cycle", 0), record("B1 cycle", 1)])
    assert compared(groups) == []
    assert groups[0].values("text_exact")[0].value == pytest.approx(0.6)
