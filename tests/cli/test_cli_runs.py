"""runs, run names and clean: what a folder of runs tells, and what may go from it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentsmith.cli import main
from latentsmith.cli.runs import age, size
from latentsmith.utils import cleaning
from latentsmith.utils.cache import note_use, used_by, users_of
from latentsmith.utils.cleaning import idle_caches, old_checkpoints, remove
from latentsmith.utils.lock import is_held
from latentsmith.utils.run_folders import facts, find_runs

WORDS = ["data=dots", "engine=steam", "scale=smoke"]
HEX = "0123456789abcdef"


def run(*words: str) -> int:
    return main(["run", "toy", *WORDS, *words])


def told(capsys, *words: str) -> dict[str, list[str]]:
    """Run folder → its row of ``latentsmith runs``."""
    assert main(["runs", *words]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    return {row[0]: row[1:] for row in rows}


def test_states_are_told_apart(toy, capsys):
    assert run("--name", "good") == 0
    assert run("fail=user", "--name", "bad") == 2
    assert run("fail=interrupt", "--name", "halted") == 130
    capsys.readouterr()
    rows = told(capsys)
    assert {name: row[:3] for name, row in rows.items()} == {
        "runs/toy/good": ["toy", "done", "2"],
        "runs/toy/bad": ["toy", "failed", "1"],
        "runs/toy/halted": ["toy", "stopped", "1"],
    }
    assert "the track ends here" in " ".join(rows["runs/toy/bad"])
    assert list(told(capsys, "--state", "failed")) == ["runs/toy/bad"]


def test_a_failure_is_forgotten_by_the_next_session(toy, capsys, monkeypatch):
    assert run("fail=user") == 2
    folder = next(iter(find_runs(Path("runs"))))
    assert facts(folder).error == "the track ends here; lay more with finetune.samples=10"
    monkeypatch.setattr(toy, "_drive", lambda self, name, run: run.mark_done(name))
    assert run("fail=user") == 0
    assert facts(folder).state == "done" and not (folder / "failed.json").exists()


def test_a_crash_says_what_it_was(toy):
    with pytest.raises(RuntimeError):
        run("fail=crash")
    assert facts(find_runs(Path("runs"))[0]).error == "RuntimeError: boiler burst"


def test_a_live_process_is_running(toy, tmp_path):
    assert run("fail=interrupt") == 130
    folder = find_runs(tmp_path)[0]
    script = (
        "import sys, pathlib; from latentsmith.utils.lock import Lock\n"
        "Lock.take(pathlib.Path(sys.argv[1]) / 'run.lock'); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert is_held(folder / "run.lock") and facts(folder).state == "running"
        process.kill()
    assert not is_held(folder / "run.lock") and facts(folder).state == "stopped"


def test_the_best_number_is_the_first_target_else_the_lowest_loss(toy):
    assert run() == 0
    folder = find_runs(Path("runs"))[0]
    log = folder / "training" / "arm" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"kind": "validation", "samples": n, "loss": loss} for n, loss in ((0, 3.0), (9, 0.5))]
    log.write_text("\n".join(map(json.dumps, [*lines, {"kind": "train", "loss": 0.1}])) + '\n{"ki')
    assert facts(folder).best == "validation loss 0.5 (arm)"
    target = {"name": "psnr", "value": 31.25, "verdict": "go"}
    unknown = {"name": "fid", "value": None, "verdict": "not measured"}
    (folder / "report.json").write_text(json.dumps({"targets": [unknown, target]}))
    assert facts(folder).best == "psnr 31.25 (go)"
    (folder / "report.json").write_text("cut sho")
    assert facts(folder).best == "validation loss 0.5 (arm)"


def test_json_and_an_empty_place(toy, capsys, tmp_path):
    assert main(["runs"]) == 2
    assert "nothing was run from this folder yet" in capsys.readouterr().err
    assert run() == 0
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only["recipe"] == "toy" and only["state"] == "done" and only["size"] > 0
    (tmp_path / "void").mkdir()
    assert main(["runs", "void"]) == 0
    assert capsys.readouterr().out == "no runs in void\n"


def test_names_of_runs(toy, capsys):
    assert run("--name", "third-try") == 0
    assert Path("runs/toy/third-try/config.yaml").is_file()
    for name in ("a/b", "..", ".", "x" * 130, "so so"):
        assert run("--name", name) == 2
        assert "a name is made of letters" in capsys.readouterr().err
    assert run("--name", "x", "--out", "y") == 2
    assert "not both" in capsys.readouterr().err


def test_runs_needs_no_torch():
    script = (
        "import sys\nfrom latentsmith.cli import main\nassert main(['runs', '.']) == 0\n"
        "heavy = {'torch', 'numpy', 'hydra', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ages_and_sizes_in_words():
    assert [age(s) for s in (5, 65, 7000, 90000)] == ["5s", "1m", "1h", "1d"]
    assert [size(n) for n in (12, 1500, 2.5e6, 3e9, 4e12)] == [
        "12 B", "1.5 kB", "2.5 MB", "3 GB", "4 TB"
    ]  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one entry of each sort, an hour and more old."""
    root = tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(root))
    for name in ("stores/latents-kl", "references/dinov2", "corpora/captions", "judges/shapes-64"):
        entry = root / f"{name}-{HEX}"
        entry.mkdir(parents=True)
        (entry / "x.bin").write_bytes(b"0" * 1000)
        age_of(entry)
    (root / "data" / "fashion_mnist").mkdir(parents=True)
    (root / "stores" / "notes").mkdir()
    return root


def age_of(path: Path, seconds: float = 2 * cleaning.RECENT) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(found) -> list[str]:
    return [junk.path.name.removesuffix(f"-{HEX}") for junk in found]


def test_caches_are_kept_while_a_run_relies_on_them(toy, cache):
    assert names(idle_caches()) == ["latents-kl", "dinov2", "captions"]
    assert run() == 0
    folder = find_runs(Path("runs"))[0]
    store = cache / "stores" / f"latents-kl-{HEX}"
    note_use(store)  # outside a run: nothing
    assert users_of(store) == []
    with used_by(folder):
        note_use(store)
        note_use(cache / "corpora" / f"captions-{HEX}" / "latents")  # a part of an entry
        note_use(folder)  # not in the cache
    age_of(store)
    assert users_of(store) == [folder.resolve()]
    assert names(idle_caches()) == ["dinov2"]
    (folder / "config.yaml").unlink()  # the run goes
    assert names(idle_caches()) == ["latents-kl", "dinov2", "captions"]


def test_what_a_stage_fills_is_noted(toy, cache, monkeypatch):
    from latentsmith.stores import contents

    monkeypatch.setattr(contents, "build_store", lambda *a, **k: None)
    monkeypatch.setattr(contents, "open_store", lambda path: path)
    store = cache / "stores" / f"latents-kl-{HEX}"
    filled = contents.Contents(manifest=None, keys=[], compute=None)  # type: ignore[arg-type]

    def drive(self, name, run):
        contents.fill(store, filled)
        run.mark_done(name)

    monkeypatch.setattr(toy, "_drive", drive)
    assert run() == 0
    assert users_of(store) == [find_runs(Path("runs"))[0].resolve()]


def test_nothing_goes_unless_asked(toy, cache, capsys):
    assert main(["clean"]) == 0
    out = capsys.readouterr().out
    assert "caches that no run relies on: 3 kB" in out and "--yes removes" in out
    assert len(idle_caches()) == 3
    assert main(["clean", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("3 kB freed\n")
    left = {str(p.relative_to(cache)) for p in cache.glob("*/*") if p.is_dir()}
    assert left == {"data/fashion_mnist", "stores/notes", f"judges/shapes-64-{HEX}"}
    assert main(["clean", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to clean\n"


def test_what_is_new_held_or_a_link_stays(toy, cache, tmp_path):
    (cache / "references" / f"new-{HEX}").mkdir()
    outside = tmp_path / "precious"
    outside.mkdir()
    (cache / "stores" / f"link-{HEX}").symlink_to(outside)
    age_of(outside)
    found = idle_caches()
    assert names(found) == ["latents-kl", "dinov2", "captions"]
    with used_by(Path("runs/late")):
        Path("runs/late").mkdir(parents=True)
        Path("runs/late/config.yaml").write_text("")
        note_use(found[0].path)
    assert remove(found[0]) == "is relied on by a run by now"
    found[1].path.rename(tmp_path / "moved")
    found[1].path.symlink_to(tmp_path / "moved")
    assert remove(found[1]) == "is not where it was"
    assert (tmp_path / "moved" / "x.bin").is_file() and outside.is_dir()
    script = (
        "import sys, pathlib; from latentsmith.utils.lock import Lock\n"
        "Lock.take(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    lock = found[2].path.parent / f".{found[2].path.name}.lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert remove(found[2]).startswith("is in use by process")
        process.kill()
    assert remove(found[2]) == "" and not found[2].path.exists()


@pytest.fixture
def trained(toy):
    """A finished run with three checkpoints of a training."""
    import torch

    from latentsmith.training.checkpoint import folder_of, write

    assert run() == 0
    folder = find_runs(Path("runs"))[0]
    root = folder / "training" / "arm" / "checkpoints"
    for samples in (10, 20, 30):
        write(folder_of(root, samples), {"model": {"w": torch.ones(3)}}, {"samples": samples})
    return folder


def test_older_checkpoints_of_finished_runs_go(trained, cache, capsys):
    assert [int(junk.path.name) for junk in old_checkpoints(trained)] == [10, 20]
    assert [int(junk.path.name) for junk in old_checkpoints(trained, last=True)] == [10, 20, 30]
    assert main(["clean", "--yes"]) == 0
    root = trained / "training" / "arm" / "checkpoints"
    assert [int(p.name) for p in root.iterdir()] == [30]
    assert main(["clean", "--last-checkpoints", "--yes"]) == 0
    assert list(root.iterdir()) == []
    assert facts(trained).state == "done"


def test_older_checkpoints_stay_where_the_last_is_damaged(trained):
    first, _, last = old_checkpoints(trained, last=True)
    (last.path / "model.safetensors").write_bytes(b"cut")
    assert remove(first).startswith("stays, the later one is damaged")
    assert first.path.is_dir()


def test_checkpoints_of_unfinished_runs_stay(trained):
    (trained / "finished.json").unlink()
    assert old_checkpoints(trained, last=True) == []


def test_old_runs_go_when_asked(toy, cache, capsys):
    assert run() == 0 and run("--fresh") == 0
    before = {path.name for path in find_runs(Path("runs"))}
    assert before == {"smoke,data=dots,engine=steam", "smoke,data=dots,engine=steam.old-1"}
    assert main(["clean", "--yes"]) == 0
    assert {path.name for path in find_runs(Path("runs"))} == before
    assert main(["clean", "--old-runs", "--yes"]) == 0
    assert [path.name for path in find_runs(Path("runs"))] == ["smoke,data=dots,engine=steam"]
