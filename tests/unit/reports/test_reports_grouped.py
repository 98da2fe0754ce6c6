"""Runs grouped over their seeds, and tables as Markdown."""

from pathlib import Path

import pytest

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.content import Report, Table
from latentsmith.reports.grouped import changes, groups_of, means
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.runs import RunRecord


def record(loss: dict, seed: int, fd: float, psnr: float) -> RunRecord:
    found = [
        Measurement("fd_x", fd, Stamp("val", 10, "x"), None, False, metric="fd"),
        Measurement("psnr", psnr, Stamp("val", 10), None, True, "dB"),
    ]
    config = {"kind": "mmreg", "seed": seed, "loss": loss}
    name = f"{loss['kind']}-{seed}"
    return RunRecord(name, Path(name), config, report=Report("t", measurements={"arm": found}))


NONE, PEARSON = {"kind": "none", "weight": 0.3}, {"kind": "pearson", "weight": 0.01, "ramp": 0.1}
RECORDS = [
    record(NONE, 1, 52.0, 27.1), record(NONE, 0, 50.0, 27.0), record(NONE, 2, 54.0, 27.2),
    record(PEARSON, 0, 45.0, 27.1), record(PEARSON, 2, 49.1, 27.0), record(PEARSON, 1, 46.9, 27.2),
]  # fmt: skip


def test_a_group_is_named_by_its_component_and_sorted_by_seed():
    groups = groups_of(RECORDS, "arm")
    assert [g.name for g in groups] == ["loss=none", "loss=pearson"]
    assert [m.value for m in groups[0].values("fd_x")] == [50.0, 52.0, 54.0]
    assert groups[1].seeds == [0, 1, 2]


def test_settings_that_differ_within_a_component_are_named():
    records = [record({**PEARSON, "weight": w}, 0, 1.0, 1.0) for w in (0.1, 0.2)]
    assert [g.name for g in groups_of(records, "arm")] == ["loss.weight=0.1", "loss.weight=0.2"]


def test_one_kind_with_two_weights_makes_two_groups():
    losses = [NONE, *({**PEARSON, "weight": w} for w in (0.1, 0.2))]
    records = [record(loss, seed, 1.0, 1.0) for seed in (0, 1) for loss in losses]
    groups = groups_of(records, "arm")
    names = ["loss=none", "loss=pearson, loss.weight=0.1", "loss=pearson, loss.weight=0.2"]
    assert [(g.name, g.seeds) for g in groups] == [(name, [0, 1]) for name in names]
    assert groups_of(records[::3], "arm")[0].name == "all"


def test_means_have_a_row_per_group_and_leave_unknown_columns_out():
    table = means(groups_of(RECORDS, "arm"), ["psnr", "unheard_of", "fd_x"], "c")
    assert len(table.columns) == 4 and [row[:2] for row in table.rows] == [
        ["loss=none", 3], ["loss=pearson", 3],
    ]  # fmt: skip
    assert table.rows[1][3].value == pytest.approx((45.0 + 49.1 + 46.9) / 3)


def test_changes_pair_the_seeds_and_know_the_better_way():
    groups = groups_of(RECORDS, "arm")
    table = changes(groups, groups[0], ["fd_x", "psnr"], "c")
    fd, psnr = table.rows
    assert fd[3] == "−5.000" and fd[5] == "better"  # −5.0, −5.1, −4.9: seeds cancel
    assert psnr[5] == "not told apart"
    assert table.flags == {(0, 5): "go"}
    back = changes(groups, groups[1], ["fd_x", "psnr"], "c")
    assert back.rows[0][5] == "worse" and back.flags == {(0, 5): "no-go"}


def test_a_run_that_failed_costs_its_seed_alone():
    groups = groups_of(RECORDS[:5], "arm")
    (row,) = changes(groups, groups[0], ["fd_x"], "c").rows
    assert row[1] == 2 and row[3] == "−4.950"  # of seeds 0 and 2
    (row,) = changes(groups, groups[1], ["fd_x"], "c").rows
    assert row[1] == 2 and row[3] == "4.950", "the other way too"
    groups = groups_of([*RECORDS[:1], *RECORDS[3:5]], "arm")
    assert changes(groups, groups[0], ["fd_x"], "c").rows == [], "no seed in common"


def test_markdown_has_intervals_and_escapes_pipes():
    m = Measurement("psnr", 27.25, Stamp("val", 10), (27.14, 27.36), True, "dB")
    text = markdown_table(Table(["name", "value"], [["a|b", m], ["c", None]], "Caption."))
    assert text.splitlines() == [
        "Caption.", "", "| name | value |", "| --- | ---: |",
        "| a\\|b | 27.25 dB [27.14, 27.36] |", "| c | – |",
    ]  # fmt: skip
