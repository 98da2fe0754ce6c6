"""run, train and sweep: what they write, skip, resume and refuse."""

import json
from pathlib import Path

import pytest
import yaml

from latentsmith.cli import main
from latentsmith.cli.sweep import expand, names
from latentsmith.config.run import Run
from latentsmith.errors import UserError
from latentsmith.recipes.base import Stage
from toy.toy_recipe import ToyConfig

pytestmark = pytest.mark.usefixtures("toy")


def drives(folder: str | Path) -> list[str]:
    return (Path(folder) / "drives.txt").read_text().split()


def test_a_run_goes_through_its_stages_once(capsys):
    assert main(["run", "toy", "scale=smoke", "seed=3"]) == 0
    folder = Path("runs/toy/smoke,seed=3")
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    assert main(["run", "toy", "seed=3", "scale=smoke"]) == 0
    assert drives(folder) == ["pretrain", "finetune"]
    assert Run.load(folder).finished
    assert yaml.safe_load((folder / "config.yaml").read_text())["pretrain"]["samples"] == 10


def test_words_may_stand_on_both_sides_of_options():
    assert main(["run", "toy", "scale=smoke", "--out", "here", "seed=3", "--fresh", "fail=no"]) == 0
    assert Run.load("here").config.seed == 3


def test_train_runs_one_stage_into_the_same_folder():
    assert main(["train", "toy.pretrain", "scale=smoke"]) == 0
    run = Run.load("runs/toy/smoke")
    assert drives(run.path) == ["pretrain"] and not run.finished
    assert main(["run", "toy", "scale=smoke"]) == 0
    assert drives(run.path) == ["pretrain", "finetune"]


def closing(run: Run) -> None:
    (run.path / "page.txt").write_text("anew")


def test_a_run_ends_early_and_goes_on_later(monkeypatch):
    stages = ToyConfig.stages
    page = Stage("page", "write a page", closing, closing="pretrain")
    monkeypatch.setattr(ToyConfig, "stages", lambda self: [*stages(self), page])
    assert main(["run", "toy", "scale=smoke", "--until", "pretrain"]) == 0
    run = Run.load("runs/toy/smoke")
    assert drives(run.path) == ["pretrain"] and not run.finished
    assert (run.path / "page.txt").is_file(), "a closing stage runs all the same"
    assert main(["run", "toy", "scale=smoke"]) == 0
    assert drives(run.path) == ["pretrain", "finetune"] and run.finished


def test_a_report_waits_until_there_is_something_to_report(monkeypatch):
    stages = ToyConfig.stages
    page = Stage("page", "write a page", closing, closing="finetune")
    monkeypatch.setattr(ToyConfig, "stages", lambda self: [*stages(self), page])
    assert main(["run", "toy", "scale=smoke", "--until", "pretrain"]) == 0
    assert not Path("runs/toy/smoke/page.txt").exists()
    assert main(["run", "toy", "scale=smoke", "--until", "finetune"]) == 0
    assert Path("runs/toy/smoke/page.txt").is_file()


def test_until_an_unknown_stage_runs_nothing(capsys):
    for verb in (["run", "toy"], ["sweep", "toy", "seed=1,2"]):
        assert main([*verb, "scale=smoke", "--until", "pretrian"]) == 2
        assert (
            "--until pretrian: no such stage. Did you mean 'pretrain'?" in capsys.readouterr().err
        )
    assert not Path("runs").exists()


def test_resuming_with_other_settings_is_refused(capsys):
    assert main(["run", "toy", "scale=smoke", "--out", "here"]) == 0
    assert main(["run", "toy", "scale=smoke", "seed=1", "--out", "here"]) == 2
    err = capsys.readouterr().err
    assert "latentsmith: here was started with other settings:\n  seed: 0 there, 1 now\n" in err
    assert "--out ANOTHER_FOLDER" in err and "--fresh" in err
    assert main(["run", "toy", "scale=smoke", "seed=1", "--out", "here", "--fresh"]) == 0


def test_a_dry_run_shows_settings_and_writes_nothing(capsys):
    assert main(["run", "toy", "scale=smoke", "engine=diesel", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out.split("dry run")[0])["engine"]["kind"] == "diesel"
    assert "dry run of diesel" in out
    assert out.endswith("a real one writes runs/toy/smoke,engine=diesel\n")
    assert not Path("runs").exists()


def test_help_settings(capsys):
    assert main(["run", "toy", "scale=smoke", "--help-settings"]) == 0
    assert "pretrain.samples=10  (integer > 0)" in capsys.readouterr().out


def test_a_grid_is_the_product_of_its_axes():
    grid = expand(["scale=smoke", "pretrain.lr=0.1,0.2", "seed=range(0,3)", "law=linear"])
    assert len(grid) == 6
    assert grid[0] == ["scale=smoke", "pretrain.lr=0.1", "seed=0", "law=linear"]
    assert grid[-1] == ["scale=smoke", "pretrain.lr=0.2", "seed=2", "law=linear"]
    assert names(grid)[4] == "4-pretrain.lr=0.2,seed=1"


def test_a_grid_keeps_lists_and_quotes_whole():
    assert expand(["pretrain.betas=[0.1,0.2],[0.3,0.4]"]) == [
        ["pretrain.betas=[0.1,0.2]"],
        ["pretrain.betas=[0.3,0.4]"],
    ]
    with pytest.raises(UserError, match="settings are written key=value: seed=1,2"):
        expand(["seed", "1,2"])


@pytest.fixture
def reported(monkeypatch):
    """Give the toy recipe a sweep report that says what it was given."""
    calls: list[tuple[list[str], Path]] = []

    def sweep_report(self, folders, out):
        calls.append(([f.name for f in folders], out))

    monkeypatch.setattr(ToyConfig, "sweep_report", sweep_report, raising=False)
    return calls


def test_a_sweep_runs_each_and_reports(reported, capsys, monkeypatch):
    line = ["sweep", "toy", "scale=smoke", "seed=1,2"]
    assert main(line) == 0
    out = Path("runs/toy/sweep-smoke,seed=1,2")
    assert drives(out / "0-seed=1") == ["pretrain", "finetune"]
    assert Run.load(out / "1-seed=2").config.seed == 2
    assert reported == [(["0-seed=1", "1-seed=2"], out)]
    assert capsys.readouterr().out.endswith(f"2 of 2 runs finished in {out}\n")
    # Again: finished runs are not entered at all, only the report is made anew.
    monkeypatch.setattr(ToyConfig, "stages", lambda self: pytest.fail("entered a finished run"))
    assert main(line) == 0
    assert len(reported) == 2


def test_parts_of_a_sweep_are_disjoint_and_the_last_one_reports(reported, capsys):
    line = ["sweep", "toy", "scale=smoke", "seed=1,2,3", "--out", "grid", "--part"]
    assert main([*line, "2/2"]) == 0
    assert sorted(f.name for f in Path("grid").iterdir()) == ["1-seed=2"] and reported == []
    assert capsys.readouterr().out.endswith("1 of 3 runs finished in grid\n")
    assert main([*line, "1/2"]) == 0
    assert reported == [(["0-seed=1", "1-seed=2", "2-seed=3"], Path("grid"))]
    assert capsys.readouterr().out.endswith("3 of 3 runs finished in grid\n")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3"])
def test_what_is_no_part_is_refused(reported, capsys, text):
    assert main(["sweep", "toy", "seed=1,2", "--part", text]) == 2
    assert "give I/N with 1 ≤ I ≤ N, e.g. --part 1/2" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_failed_run_of_a_sweep_does_not_cost_the_others(reported, capsys):
    line = ["sweep", "toy", "scale=smoke", "fail=user,crash,no", "--out", "grid"]
    assert main(line) == 1
    out = capsys.readouterr().out
    assert "failed: grid/0-fail=user: the track ends here" in out
    assert "failed: grid/1-fail=crash: RuntimeError: boiler burst" in out
    assert "boiler burst" in Path("grid/1-fail=crash/error.txt").read_text()
    assert out.endswith("1 of 3 runs finished in grid\n")
    assert reported == [(["2-fail=no"], Path("grid"))]


def test_a_sweep_with_an_impossible_combination_does_not_start(reported, capsys):
    assert main(["sweep", "toy", "engine=diesel,steam", "pretrain.schedule=cosine"]) == 2
    assert "pretrain.schedule=cosine is not defined for engine=steam" in capsys.readouterr().err
    assert not Path("runs").exists() and reported == []


def test_an_interrupted_sweep_stops(reported):
    assert main(["sweep", "toy", "fail=interrupt,no", "--out", "grid"]) == 130
    assert not Path("grid/1-fail=no").exists()


def test_the_manifest_says_how_the_run_was_started():
    main(["run", "toy", "scale=smoke"])
    manifest = json.loads(Path("runs/toy/smoke/manifest.json").read_text())
    assert manifest["recipe"] == "toy"
    assert {"command", "versions", "git", "hardware", "world_size"} <= set(manifest["sessions"][0])
