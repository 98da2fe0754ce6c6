"""Runs read back and compared."""

import dataclasses

import pytest

from helpers import reports
from helpers.pages import assert_self_contained
from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.compare import best, compare, protocol_differences
from latentsmith.reports.content import Table
from latentsmith.reports.page import load_report
from latentsmith.reports.runs import config_differences, flatten, read_run, read_runs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    grid = {"w0": (0.0, 0.0), "w1": (0.1, 0.5), "w2": (0.3, 1.0)}
    return [reports.run_folder(out / name, *how) for name, how in grid.items()]


def test_read_run(sweep):
    run = read_run(sweep[0])
    assert (run.name, run.config["loss"]["weight"]) == ("w0", 0.0)
    assert set(run.metrics) == {"", "baseline"} and len(run.metrics[""]) == 48
    assert run.report is not None and set(run.measurements()) == {"baseline", "regularized"}
    assert run.manifest["versions"] == {"torch": "2.13.0"}


def test_logs_of_checkpoints_and_trackers_are_not_runs(tmp_path):
    folder = reports.run_folder(tmp_path / "r")
    for skipped in ("checkpoints", "tensorboard"):
        (folder / skipped).mkdir()
        (folder / skipped / "metrics.jsonl").write_text("{}\n")
    assert set(read_run(folder).metrics) == {"", "baseline"}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_run(tmp_path / "no")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match=r"neither report\.json nor metrics\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match="not YAML"):
        read_run(tmp_path)


def test_all_unreadable_runs_are_named_at_once(tmp_path, sweep):
    with pytest.raises(UserError) as error:
        read_runs([tmp_path / "a", sweep[0], tmp_path / "b"])
    assert str(tmp_path / "a") in str(error.value) and str(tmp_path / "b") in str(error.value)
    with pytest.raises(UserError, match="more than once"):
        read_runs([sweep[0], sweep[0]])


def test_names_are_as_long_as_needed(tmp_path):
    folders = [reports.run_folder(tmp_path / a / "run") for a in ("x", "y")]
    assert [r.name for r in read_runs(folders)] == ["x/run", "y/run"]


def test_flatten_and_differences(sweep):
    value = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 3}], "f": {}}
    assert flatten(value) == {"a.b": 1, "a.c": [1, 2], "d.0.e": 3, "f": {}}
    records = read_runs(sweep)
    assert config_differences(records) == {"loss.weight": [0.0, 0.1, 0.3]}
    more = dataclasses.replace(records[0], config={"kind": "other"})
    found = config_differences([records[0], more])
    assert found["kind"] == ["mmreg", "other"] and found["seed"] == [0, None]


def test_comparison_page(sweep, tmp_path):
    report = compare(sweep, tmp_path)
    assert load_report(tmp_path) == report
    page = assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "1 of 3 runs meet all their targets" in page.text
    targets = report.tables()[0]
    assert targets.columns[:3] == ["run", "`loss.weight`", "verdict"]
    assert [r[:3] for r in targets.rows] == [
        ["w0", "0.0", "no-go"], ["w1", "0.1", "no-go"], ["w2", "0.3", "go"],
    ]  # fmt: skip
    assert [targets.flags[i, 3] for i in range(3)] == ["no-go", "no-go", "go"]
    assert "not measured" in targets.flags.values()


def test_comparison_marks_the_best_only_where_intervals_part(sweep, tmp_path):
    report = compare(sweep, tmp_path)
    table = next(s for s in report.sections if s.title == "Measured: regularized").items[0]
    assert isinstance(table, Table)
    rows = {str(row[0]).split(",")[0].split("\u00a0")[0]: i for i, row in enumerate(table.rows)}
    assert table.flags[rows["Distance correlation (Pearson)"], 3] == "best"
    psnr, midpoints = rows["PSNR"], rows["Fréchet distance of midpoints"]
    assert not any(row in (psnr, midpoints) for row, _ in table.flags)
    same = next(s for s in report.sections if s.title == "Measured: baseline").items[0]
    assert isinstance(same, Table) and same.columns == ["metric", "every run"]


def test_comparison_draws_the_tradeoff_in_the_order_of_the_setting(sweep, tmp_path):
    figure = compare([sweep[2], sweep[0], sweep[1]], tmp_path).figures()[0]
    listed = [figure.alt.index(f"{w}: ") for w in ("0.0", "0.1", "0.3")]
    assert listed == sorted(listed)
    assert "loss.weight" in figure.caption and "both bars" in figure.caption


def test_runs_without_reports_are_compared_by_their_curves(tmp_path):
    folders = [reports.run_folder(tmp_path / n, w) for n, w in (("a", 0.1), ("b", 0.2))]
    for folder in folders:
        (folder / "report.json").unlink()
    report = compare(folders, tmp_path / "out")
    assert [s.title for s in report.sections] == ["What differs", "Curves"]
    assert "a/baseline" in report.figures()[0].data.decode()


def measurement(low, high, up=True, **stamp):
    stamp = Stamp(**{"data": "d", "count": 1} | stamp)
    return Measurement("m", (low + high) / 2, stamp, (low, high), up)


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ([measurement(0, 1), measurement(2, 3)], 1),
        ([measurement(0, 1, False), measurement(2, 3, False)], 0),
        ([measurement(0, 2), measurement(1, 3)], None),
        ([measurement(0, 1), measurement(1, 2)], None),  # touching is not apart
        ([measurement(0, 1, None), measurement(2, 3, None)], None),
        ([measurement(2, 3), measurement(0, 1), None], 0),
        ([measurement(2, 3), None], None),
        ([measurement(0, 1), measurement(2, 3, count=2)], None),
        ([measurement(0, 1), measurement(2, float("inf"))], None),
        ([measurement(0, 1), dataclasses.replace(measurement(2, 3), interval=None)], None),
        ([measurement(0, 9), measurement(2, 3), measurement(4, 5)], None),
    ],
)
def test_best(values, winner):
    assert best(values) == winner


def test_protocol_differences_ignore_versions():
    a, b = measurement(0, 1, versions={"torch": "1"}), measurement(0, 1, versions={"torch": "2"})
    assert protocol_differences([a, b]) == []
    assert protocol_differences([a, measurement(0, 1, count=2, space="x")]) == ["count", "space"]
