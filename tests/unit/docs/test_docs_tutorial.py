"""docs/tutorials/mmreg.md: its Python runs, its mistakes are answered in the words it quotes."""

import os
import re
import shlex
from pathlib import Path

import pytest

from helpers.fresh import python
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.config.run import Run

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "tutorials" / "mmreg.md").read_text()
MISTAKES = re.findall(r"^```text\n\$ latentsmith (.*?)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_answered_as_quoted(line, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights-here"))
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    if "--out runs/mmreg/smoke" in line:  # a run of the settings it is compared with
        Run.open("runs/mmreg/smoke", compose("mmreg", ["scale=smoke"])).close()
    assert main(shlex.split(line)) == 2
    pattern = ".*".join(re.escape(part) for part in answer.strip().split("…"))
    said = capsys.readouterr().err
    assert re.search(pattern + r"\s*\Z", said), said


def test_there_are_ten_mistakes():
    assert len(MISTAKES) == 10


def test_the_python_examples_run(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 2
    env = {**os.environ, "LATENTSMITH_CACHE": str(tmp_path / "cache")}
    done = python("-c", "\n".join(blocks), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"-?0\.\d{3}, 95 % \(.+, .+\), chance -?0\.\d{3}", last), last
    assert (tmp_path / "runs" / "by-hand" / "report.html").is_file()


def test_the_place_for_measured_numbers_is_marked_once_or_filled():
    assert PAGE.count("<!-- laptop-table -->") <= 1
