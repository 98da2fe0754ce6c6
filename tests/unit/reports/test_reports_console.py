"""The verdict table as text, and the latent-space card."""

import io
from pathlib import Path

from helpers import reports
from helpers.pages import assert_self_contained
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.card import GROUPS, card, write_card
from latentsmith.reports.compare import comparison
from latentsmith.reports.console import print_verdict
from latentsmith.reports.content import Report
from latentsmith.reports.page import load_report
from latentsmith.reports.runs import read_runs


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def printed(report, path=None, stream=io.StringIO):
    out = stream()
    print_verdict(report, path, file=out)
    return out.getvalue()


def test_plain_table_ends_with_the_path():
    lines = printed(reports.report(figures=False), Path("runs/x/report.html")).splitlines()
    assert lines[0] == "MM-Reg on Fashion-MNIST"
    assert " ".join(lines[1].split()) == "target value 95 % interval baseline bar verdict"
    first = " ".join(lines[2].split())
    assert first == "Distance correlation 0.847 [0.834, 0.859] 0.462 > 0.8 go"
    ends = [line.index("0.847") + 5 if "0.847" in line else None for line in lines]
    assert ends[2] == lines[3].index("24.72 dB") + len("24.72 dB")  # right-aligned
    assert lines[-2] == "Verdict: go (4 of 4 required targets met)."
    assert lines[-1] == "Report: runs/x/report.html"
    assert any("RSA, Mantel" in line for line in lines)
    assert "\x1b" not in "".join(lines)


def test_terminal_gets_a_table_and_no_markup_from_names():
    target = reports.report(figures=False).targets[0]
    evil = Report("[red]t[/red]", targets=[target.__class__(**{**vars(target), "name": "[bold]x"})])
    text = printed(evil, stream=Terminal)
    assert "[red]t[/red]" in text and "[bold]x" in text and "┃" in text


def test_comparison_prints_runs_and_marks(tmp_path):
    folders = [reports.run_folder(tmp_path / n, w, q) for n, w, q in (("a", 0, 0), ("b", 0.3, 1))]
    text = printed(comparison(read_runs(folders)))
    assert "✗ 0.462" in text and "✓ 0.847" in text and "loss.weight" in text
    assert text.rstrip().endswith("differ in one setting, loss.weight.")


def test_a_report_without_anything_prints_its_title():
    assert printed(Report("only this")) == "only this\n"
    assert "only this" in printed(Report("only this"), stream=Terminal)


def test_card_groups_measurements_and_says_what_is_missing(tmp_path):
    arm = reports.arm(1.0)
    odd = Measurement("home_made", 1.0, Stamp("d", 1))
    report = card(
        "Card",
        [odd, *arm.values()],
        facts={"latent": "4 × 8 × 8"},
        not_measured={"dcor_u": "too few"},
    )
    titles = [s.title for s in report.sections]
    filled = [g.capitalize() for g in GROUPS if g != "generation"]  # nothing was generated
    assert titles == ["Model", *filled, "Not measured"]
    assert report.verdict is None
    page = assert_self_contained(write_card(tmp_path, report).read_text(encoding="utf-8"))
    assert (tmp_path / "card.html").is_file() and load_report(tmp_path, stem="card") == report
    for word in ("4 × 8 × 8", "too few", "home_made", "Mantel", "latent-space card"):
        assert word in page.text
    assert "GO" not in page.text
