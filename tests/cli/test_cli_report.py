"""``latentsmith report``: what it writes and says."""

import argparse
import webbrowser

import pytest

from helpers import reports
from latentsmith.cli import report as verb
from latentsmith.errors import UserError


def run(*words):
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, words)])
    return args.run(args)


def test_one_run_is_written_again_and_printed(tmp_path, capsys):
    folder = reports.run_folder(tmp_path / "run")
    (folder / "report.html").unlink()
    assert run(folder) == 0
    assert (folder / "report.html").is_file()
    out = capsys.readouterr().out
    assert out.endswith(f"Report: {folder / 'report.html'}\n")
    assert "Verdict: go (4 of 4 required targets met)." in out


def test_one_run_to_another_folder(tmp_path):
    folder = reports.run_folder(tmp_path / "run")
    assert run(folder, "--out", tmp_path / "copy") == 0
    assert (tmp_path / "copy" / "report.html").is_file()


def test_several_runs_are_compared_beside_the_first(tmp_path, capsys):
    folders = [reports.run_folder(tmp_path / n, w, q) for n, w, q in (("a", 0, 0), ("b", 0.3, 1))]
    assert run(*folders) == 0
    page = tmp_path / "comparison" / "report.html"
    assert page.is_file()
    assert capsys.readouterr().out.endswith(f"Report: {page}\n")
    assert run(*folders, "--out", tmp_path / "elsewhere") == 0
    assert (tmp_path / "elsewhere" / "report.json").is_file()


def test_open_shows_the_page(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    folder = reports.run_folder(tmp_path / "run")
    run(folder)
    assert not shown
    run(folder, "--open")
    assert shown == [(folder / "report.html").resolve().as_uri()]


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    folder = reports.run_folder(tmp_path / "run")
    (folder / "report.json").unlink()
    with pytest.raises(UserError, match=r"not reached its report stage.*same command"):
        run(folder)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.yaml, so it is not a run folder"):
        run(tmp_path)
