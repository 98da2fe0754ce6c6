"""Reports escape whatever a user wrote: parsed here, and opened in a browser where there is one."""

import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from helpers.pages import assert_self_contained
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports import plots
from latentsmith.reports.content import Figure, Report, Section, Table
from latentsmith.reports.page import load_report, render, write_report
from latentsmith.reports.verdicts import above

EVIL = """<script>document.title='it ran';document.body.id='it-ran'</script>\
<img src=x onerror="document.body.id='it-ran'">"'></style></td>--><svg onload="alert(1)">"""


def page() -> Report:
    """The caption of a malicious dataset, in every place where a text can be."""
    stamp = Stamp(EVIL, 10, EVIL, detail={EVIL: EVIL})
    number = Measurement("psnr", 20.0, stamp, (19.0, 21.0), True, EVIL)
    target = above(number, 10.0, name=EVIL, meaning=EVIL)
    table = Table([EVIL, "n"], [[EVIL, number], [f"`{EVIL}`", 1]], caption=EVIL)
    figure = Figure(b"x", EVIL, EVIL)
    lost = Figure(b"", EVIL, EVIL, missing="fig-0000000000000000.png")
    section = Section(EVIL, f"{EVIL}\n\n`{EVIL}`", [table, figure, lost])
    return Report(
        title=EVIL, subtitle=EVIL, lead=EVIL, targets=[target], sections=[section],
        measurements={EVIL: [number]}, config={EVIL: EVIL}, manifest={EVIL: [EVIL]}, run=EVIL,
        kind=EVIL,
    )  # fmt: skip


def test_no_text_becomes_a_tag():
    found = assert_self_contained(render(page()))
    assert all(name not in attributes for _, attributes in found.tags for name in HANDLERS)
    assert found.text.count("<script>document.title='it ran'") >= 10, "it is shown as it is"


HANDLERS = ("onerror", "onload", "onclick")


def test_nor_after_reading_the_report_again(tmp_path):
    write_report(tmp_path, page())
    assert_self_contained(render(load_report(tmp_path)))


def test_nor_in_a_plot():
    """In SVG, where a viewer opens the picture itself."""
    line = ([0.0, 1.0], [0.0, 1.0])
    figure = plots.curves({EVIL: {EVIL: line, "other": line}}, caption=EVIL, x_label=EVIL)
    assert figure.media == "image/svg+xml"
    names = {node.tag.rpartition("}")[2] for node in ElementTree.fromstring(figure.data).iter()}
    assert not names & {"script", "img", "foreignObject", "a"}


def test_a_browser_runs_nothing(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here (apt-get install chromium); the parser's test has run")
    write_report(tmp_path, page())
    evil = tmp_path / "evil.html"
    evil.write_text("<body><script>document.body.id='it-ran'</script></body>")

    def dom(file) -> str:
        done = subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                f"--user-data-dir={tmp_path / 'profile'}", file.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout

    assert 'id="it-ran"' in dom(evil), "this browser does run scripts"
    shown = dom(tmp_path / "report.html")
    assert 'id="it-ran"' not in shown and "<title>it ran" not in shown
    assert "&lt;script&gt;" in shown
