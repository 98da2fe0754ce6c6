"""``latentsmith export``: what it prints, and what a mistake answers."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.tiny_models import tiny_generator
from latentsmith.cli import main
from latentsmith.sampling.generator import LatentGenerator


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with ``source/generator`` and its autoencoder."""
    monkeypatch.chdir(tmp_path)
    tiny_generator(Path("source"))
    return tmp_path


def test_prints_the_folder_and_names_the_card_after_the_source(here, capsys):
    assert main(["export", "source/generator", "--out", "exported"]) == 0
    assert capsys.readouterr().out == "exported\n"
    assert "\n# generator\n" in Path("exported/README.md").read_text()
    assert LatentGenerator.load("exported").autoencoder is not None
    assert main(["export", "source/generator", "--out", "exported", "--fresh"]) == 0
    assert Path("exported.old-1/README.md").is_file()


def test_an_autoencoder_that_is_elsewhere_is_given(here, capsys):
    file = Path("source/generator/generator.json")
    gone = {"autoencoder": "gone", "autoencoder_from_here": "gone"}
    file.write_text(json.dumps(json.loads(file.read_text()) | gone))
    assert main(["export", "source/generator", "--out", "exported"]) == 2
    assert capsys.readouterr().err == (
        "latentsmith: the autoencoder of source/generator is not at gone: give the folder it is in "
        "now (autoencoder=…; of latentsmith export, --autoencoder)\n"
    )
    shutil.move("source/autoencoder", "vae")
    assert main(["export", "source/generator", "--autoencoder", "vae", "--out", "exported"]) == 0


MISTAKES = [
    (
        "nowhere --out exported",
        "there is no folder nowhere. Give a run, or the folder of a model that was saved",
    ),
    (
        "source/generator --model generator-baseline --out exported",
        "--model generator-baseline names a stage of a run, and source/generator is not a run "
        "folder",
    ),
    (
        "source/generator --out source",
        "source holds what is exported: give another folder with --out FOLDER",
    ),
    (
        "source/generator --fresh --out source/autoencoder",
        "source/autoencoder holds what is exported: give another folder with --out FOLDER",
    ),
    (
        "source/generator --out raw",
        "raw exists and is not empty: give another folder with --out FOLDER, or move it aside with "
        "--fresh",
    ),
    (
        "source/generator --out source/generator/generator.json",
        "source/generator/generator.json is a file: give a folder with --out FOLDER",
    ),
    (
        "source/generator --out exported --witth-vae",
        "--witth-vae: no such option. Did you mean --with-vae?",
    ),
    (
        "source/generator --out exported labels=3",
        "do not know what to do with: labels=3",
    ),
]


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_a_sentence_and_nothing_is_written(here, capsys, line, answer):
    shutil.copytree("source/raw", "raw")
    assert main(["export", *line.split()]) == 2
    assert capsys.readouterr().err == f"latentsmith: {answer}\n"
    assert sorted(f.name for f in here.iterdir()) == ["raw", "source"]


def test_without_out_the_usage_is_shown(here, capsys):
    assert main(["export", "source/generator"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("latentsmith: the following arguments are required: --out\nusage:")
