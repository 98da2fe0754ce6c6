"""The page and its JSON: complete, self-contained, safe, readable back."""

import dataclasses
import json
import math

import pytest

from helpers import reports
from helpers.pages import Page, assert_self_contained
from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.marks import all_measurements
from latentsmith.reports.numbers import stamp_text
from latentsmith.reports.page import (
    Figure,
    Report,
    Section,
    Table,
    load_report,
    render,
    write_report,
)
from latentsmith.reports.verdicts import above

PNG = b"\x89PNG not really"


@pytest.fixture(scope="module")
def full():
    return reports.report()


def test_page_is_self_contained_and_small(tmp_path, full):
    path = write_report(tmp_path, full)
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    assert len(page.attributes("src")) == len(full.figures()) == 7
    assert all(page.attributes("alt"))
    assert path.stat().st_size < 1_500_000


def test_verdict_stands_before_everything_else(full):
    text = Page(render(full)).text
    places = [text.index(w) for w in (full.title, "GO", "4 of 4", "Targets", "Geometry",
                                      "Everything measured", "Protocols", "Config")]  # fmt: skip
    assert places == sorted(places)


def test_every_number_leads_to_its_protocol(full):
    page = Page(render(full))
    titles, marks = page.attributes("title"), page.attributes("href")
    for m in all_measurements(full):
        assert stamp_text(m.stamp) in titles
    rows = {i for i in page.ids() if i.startswith("protocol-")}
    assert {h[1:] for h in marks if h.startswith("#protocol-")} == rows
    assert "fashion_mnist/val" in page.text and "eps 0.05" in page.text


def test_distance_correlation_is_explained_once_and_referred_to(full):
    html = render(full)
    assert html.count("is not Székely&#39;s distance correlation") == 1
    assert html.count("explained above") == 1
    assert "permuted 0.001" in html
    plain = Report("t", measurements={"a": [Measurement("psnr", 1.0, Stamp("d", 1))]})
    assert "Mantel" not in render(plain)


@pytest.mark.parametrize("where", ["title", "subtitle", "lead", "run"])
def test_user_text_is_escaped(where):
    evil = '<script>alert("x")</script>`<b>`" onload="x'
    html = render(dataclasses.replace(Report("t"), **{where: evil}))
    assert_self_contained(html)
    assert "&lt;script&gt;" in html


def test_user_text_in_tables_stamps_and_config_is_escaped():
    evil = "</style></td><img src=x onerror=alert(1)>"
    m = Measurement(evil, 1.0, Stamp(evil, 1, evil, detail={evil: evil}), unit=evil)
    report = Report(
        "t",
        targets=[above(m, 0.5, name=evil, meaning=evil)],
        sections=[
            Section(evil, evil, [Table([evil], [[evil], [m]], evil), Figure(PNG, evil, evil)])
        ],
        measurements={evil: [m]},
        config={evil: evil},
        manifest={evil: [evil]},
    )
    page = assert_self_contained(render(report))
    assert sum(tag == "img" for tag, _ in page.tags) == 1


def test_code_in_prose_and_paragraphs():
    html = render(Report("t", sections=[Section("s", "a `b` c\nd\n\ne 5 % odd ` tick")]))
    assert "<p>a <code>b</code> c d</p>" in html
    assert "<p>e 5\u00a0% odd ` tick</p>" in html


def test_json_round_trip(tmp_path, full):
    write_report(tmp_path, full)
    assert load_report(tmp_path) == full
    value = json.loads((tmp_path / "report.json").read_text())
    first = value["targets"][0]
    assert first["value"] == full.targets[0].measurement.value  # type: ignore[union-attr]
    assert first["interval"] == [0.834, 0.859]
    assert (first["threshold"], first["verdict"]) == ("> 0.8", "go")
    assert first["measurement"]["stamp"]["data"] == "fashion_mnist/val"
    assert (value["verdict"], value["run"]) == ("go", "runs/mmreg/laptop")
    assert value["config"]["loss"]["weight"] == 0.3


def test_json_keeps_what_json_cannot_say(tmp_path):
    nan = Measurement("psnr", math.nan, Stamp("d", 1), (-math.inf, math.inf), True)
    table = Table(["a", "b", "c", "d"], [["x", math.inf, None, True]], flags={(0, 1): "best"})
    report = Report("t", targets=[above(nan, 1, name="n")], sections=[Section("s", "", [table])])
    write_report(tmp_path, report)
    back = load_report(tmp_path)
    assert back.tables() == [table]
    read = back.targets[0].measurement
    assert read is not None and math.isnan(read.value)
    assert read.interval == (-math.inf, math.inf)
    assert back.verdict == "no-go"
    assert_self_contained(render(back))


def test_tensors_and_paths_in_config_become_plain(tmp_path):
    import numpy as np

    config = {"a": np.float32(0.5), "b": (1, 2), 3: tmp_path}
    write_report(tmp_path, Report("t", config=config))
    assert load_report(tmp_path).config == {"a": 0.5, "b": [1, 2], "3": str(tmp_path)}


def test_rewriting_replaces_pictures_that_are_gone(tmp_path):
    def with_picture(data):
        return Report("t", sections=[Section("s", "", [Figure(data, "c", "a")])])

    write_report(tmp_path, with_picture(PNG))
    write_report(tmp_path, with_picture(PNG + b"2"))
    assert len(list((tmp_path / "report-figures").iterdir())) == 1
    assert load_report(tmp_path).figures()[0].data == PNG + b"2"


def test_a_lost_picture_is_said_not_hidden(tmp_path):
    report = Report("t", sections=[Section("s", "", [Figure(PNG, "caption", "alt")])])
    write_report(tmp_path, report)
    name = next((tmp_path / "report-figures").iterdir())
    name.unlink()
    back = load_report(tmp_path)
    page = assert_self_contained(render(back))
    assert name.name in page.text and "caption" in page.text
    write_report(tmp_path, back)  # and writing it again still works
    assert load_report(tmp_path) == back


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../fig-0123.png"),
        ("file", "report-figures/../../fig-0123.png"),
        ("file", "/etc/hostname"),
        ("media", "text/html"),
    ],
)
def test_pictures_are_read_from_their_folder_only(tmp_path, key, value):
    write_report(tmp_path, Report("t", sections=[Section("s", "", [Figure(PNG, "c", "a")])]))
    content = json.loads((tmp_path / "report.json").read_text())
    content["sections"][0]["items"][0][key] = value
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="damaged"):
        load_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "format 'list'"),
        ('{"format": 99}', "format 99"),
        ('{"format": 1}', "damaged"),
    ],
)
def test_damaged_reports_are_user_errors(tmp_path, text, says):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=says):
        load_report(tmp_path)


def test_missing_report_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no report\.json"):
        load_report(tmp_path)


def test_unknown_verdict_in_json_is_refused(tmp_path, full):
    write_report(tmp_path, full)
    text = (tmp_path / "report.json").read_text().replace('"verdict": "go"', '"verdict": "yes"')
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match="'yes'"):
        load_report(tmp_path)


def test_tables_check_their_shape_and_align_numbers():
    with pytest.raises(ValueError, match="columns"):
        Table(["a"], [["x", "y"]])
    with pytest.raises(ValueError, match="align"):
        Table(["a"], [["x"]], align=["left", "left"])
    table = Table(["a", "b", "c"], [["x", 1.5, None], ["y", None, None]])
    assert table.alignment() == ["left", "right", "left"]


def test_two_measurements_of_one_name_in_an_arm_are_refused():
    m = Measurement("psnr", 1.0, Stamp("d", 1))
    with pytest.raises(ValueError, match="psnr more than once"):
        render(Report("t", measurements={"baseline": [m, m]}))


def test_strip_shows_bar_value_and_baseline(full):
    html = render(full)
    row = html.split('class="strip"')[1].split("</svg>")[0]
    assert 'class="bar"' in row and 'class="ref"' in row and 'class="value go"' in row
    assert 'aria-label="0.847 against 0.800"' in row
    bar = float(row.split('class="bar" x1="')[1].split('"')[0])
    value = float(row.split('class="value go" cx="')[1].split('"')[0])
    assert value > bar
