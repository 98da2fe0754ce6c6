"""The run folder: found again by the same command, refused to another config or process."""

import html.parser
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentsmith.config.compose import compose
from latentsmith.config.run import Run, default_path
from latentsmith.errors import UserError
from latentsmith.utils.lock import Lock

pytestmark = pytest.mark.usefixtures("toy")


def test_the_default_folder_is_a_function_of_the_command():
    assert default_path("toy", []) == Path("runs/toy/laptop")
    assert default_path("toy", ["scale=smoke"]) == Path("runs/toy/smoke")
    words = ["scale=smoke", "seed=3", "engine=diesel"]
    assert default_path("toy", words) == Path("runs/toy/smoke,engine=diesel,seed=3")
    assert default_path("toy", words[::-1]) == default_path("toy", words)
    assert default_path("toy", ["seed=1", "seed=2"]) == default_path("toy", ["seed=2"])


def test_awkward_overrides_give_usable_and_distinct_names():
    a = default_path("toy", ["data.path=/a/b c"])
    b = default_path("toy", ["data.path=_a_b_c"])
    long = [
        default_path("toy", [f"k{i}={'x' * 40}" for i in range(9)] + [f"z={n}"]) for n in (1, 2)
    ]
    assert a.parent == Path("runs/toy") and a != b
    assert long[0] != long[1] and len(long[0].name) < 130


def test_a_run_folder_holds_settings_words_and_manifest():
    words = ["scale=smoke", "seed=3"]
    config = compose("toy", words)
    with Run.open(None, config, words) as run:
        run.note("data", {"digest": "abc"})
    assert run.path == Path("runs/toy/smoke,seed=3")
    assert (run.path / "overrides.txt").read_text() == "scale=smoke\nseed=3\n"
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["data"] == {"digest": "abc"}
    session = manifest["sessions"][0]
    assert session["versions"]["torch"] and session["hardware"]["threads"] >= 1
    loaded = Run.load(run.path)
    assert loaded.config == config and loaded.overrides == words and not loaded.writable


def test_paths_in_a_summary_move_with_the_run(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    inside, beside = Path("sweep/run/training/x"), Path("sweep/shared/1")
    with Run.open("sweep/run", compose("toy", ["scale=smoke"])) as run:
        run.mark_done("pretrain", {"n": [{"model": inside, "start": beside}], "page": "x.html"})
    assert run.summary("pretrain")["n"] == [{"model": str(inside), "start": str(beside)}]
    (tmp_path / "a" / "sweep").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    found = Run.load(tmp_path / "moved" / "run").summary("pretrain")
    models = {"model": str(tmp_path / "moved/run/training/x")}
    assert found == {"n": [models | {"start": str(tmp_path / "moved/shared/1")}], "page": "x.html"}


def test_going_on_with_the_same_settings_adds_a_session():
    config = compose("toy", ["scale=smoke"])
    with Run.open("here", config) as run:
        run.mark_done("pretrain", {"samples": 10})
    with Run.open("here", config) as run:
        assert run.stage_done("pretrain") and not run.stage_done("finetune")
        assert run.summary("pretrain") == {"samples": 10}
        assert len(run.manifest["sessions"]) == 2


def test_other_settings_are_refused_with_both_values_and_the_ways_on():
    Run.open("here", compose("toy", ["seed=1"])).close()
    with pytest.raises(UserError) as caught:
        Run.open("here", compose("toy", ["seed=2", "pretrain.lr=0.1"]))
    assert str(caught.value).splitlines() == [
        "here was started with other settings:",
        "  seed: 1 there, 2 now",
        "  pretrain.lr: 0.0003 there, 0.1 now",
        "Keep both with --out ANOTHER_FOLDER, or start anew with --fresh "
        "(the old run is moved aside).",
    ]
    with Run.open("here", compose("toy", ["seed=1"])):
        pass  # the refusal left the lock free and the run as it was


def test_how_weights_are_spread_over_processes_may_change():
    """Checkpoints are the same files: a run that began on many may end on one."""
    Run.open("here", compose("urepa", ["scale=paper", "train.shard=fsdp"])).close()
    Run.open("here", compose("urepa", ["scale=paper"])).close()
    with pytest.raises(UserError, match=r"train.lr: .* there") as caught:
        Run.open("here", compose("urepa", ["scale=paper", "train.lr=0.5", "train.shard=fsdp"]))
    assert "shard" not in str(caught.value)


def test_fresh_moves_the_old_run_aside():
    with Run.open("here", compose("toy", ["seed=1"])) as run:
        run.mark_done("pretrain")
    for n in (1, 2):
        with Run.open("here", compose("toy", ["seed=2"]), fresh=True) as run:
            assert not run.stage_done("pretrain")
            run.mark_done("pretrain")
        assert Run.load(f"here.old-{n}").stage_done("pretrain")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(fresh):
    Path("thesis").mkdir()
    Path("thesis/chapter1.txt").write_text("years of work")
    with pytest.raises(UserError, match="thesis exists and is not a run folder"):
        Run.open("thesis", compose("toy"), fresh=fresh)
    assert [p.name for p in Path("thesis").iterdir()] == ["chapter1.txt"]
    Path("empty").mkdir()
    Run.open("empty", compose("toy")).close()


def test_loading_what_is_no_run():
    with pytest.raises(UserError, match=r"nowhere is not a run folder: it has no config\.yaml"):
        Run.load("nowhere")


def test_a_summary_that_is_not_there_says_which_command_makes_it():
    with Run.open("here", compose("toy")) as run, pytest.raises(UserError) as caught:
        run.summary("finetune")
    assert "latentsmith train toy.finetune --out here" in str(caught.value)


def test_only_rank_0_writes_and_all_ranks_agree_on_the_place(monkeypatch):
    config = compose("toy", ["scale=smoke"])
    monkeypatch.setenv("RANK", "1")
    run = Run.open(None, config, ["scale=smoke"])
    run.note("x", 1)
    run.mark_done("pretrain")
    run.finish()
    assert run.path == default_path("toy", ["scale=smoke"])
    assert not run.path.exists() and not run.writable


def test_an_interrupted_first_start_can_be_repeated():
    """Killed between making the folder and writing config.yaml: there is a lock file, no more."""
    Path("here").mkdir()
    Path("here/run.lock").write_text("")
    with Run.open("here", compose("toy")) as run:
        assert (run.path / "config.yaml").is_file()


HOLDER = """
import sys, time
from latentsmith.utils.lock import Lock
from pathlib import Path
Lock.take(Path(sys.argv[1]) / "run.lock")
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process():
    """A process that holds the lock of ``here``."""
    Run.open("here", compose("toy")).close()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, "here"], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"taken\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_two_processes_cannot_write_one_run(other_process):
    with pytest.raises(UserError) as caught:
        Run.open("here", compose("toy"))
    assert f"here is being written by process {other_process.pid} on " in str(caught.value)


def test_a_killed_process_leaves_no_lock(other_process):
    os.kill(other_process.pid, signal.SIGKILL)
    other_process.wait()
    Run.open("here", compose("toy")).close()


def test_one_process_may_open_a_run_twice():
    config = compose("toy")
    with Run.open("here", config), Run.open("here", config):
        pass
    Run.open("here", config).close()


WAITER = """
import logging, sys
from pathlib import Path
from latentsmith.utils.lock import Lock
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
Lock.wait(Path(sys.argv[1]), seconds=0.05)
print("taken", flush=True)
"""


def test_a_place_of_a_sweep_has_one_writer_until_its_stage_is_through():
    identity = {"seed": 0}
    with Run.open("grid/a", compose("toy")) as run:
        run.shared = Path("grid/shared")
        place = run.place("pretrain", identity)
        assert run.place("pretrain", identity) == place  # asked for twice in one stage
        command = [sys.executable, "-u", "-c", WAITER, f"{place}.lock"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith(f"waiting: {place.name} is being made by process {os.getpid()}")
            assert process.poll() is None
            run.let_go()
            assert process.stdout.readline() == "taken\n"
            assert process.wait() == 0


def test_closing_a_run_lets_go_of_its_places():
    run = Run.open("grid/a", compose("toy"))
    run.shared = Path("grid/shared")
    file = Path(f"{run.place('pretrain', {})}.lock").resolve()
    assert file in Lock._held
    run.close()
    assert file not in Lock._held


def test_a_run_on_its_own_locks_no_places():
    with Run.open("alone", compose("toy")) as run:
        run.place("pretrain", {})
        assert sorted(p.name for p in Path("alone").glob("*.lock")) == ["run.lock"]


def test_a_notebook_shows_the_report_in_a_frame(tmp_path):
    run = Run(tmp_path, compose("toy", []))
    assert "no report yet" in run._repr_html_()
    (tmp_path / "report.html").write_text('<p title="a">a & b</p>')
    shown = run._repr_html_()
    frame = html.parser.HTMLParser()
    found = {}
    frame.handle_starttag = lambda tag, attrs: found.update({tag: dict(attrs)})
    frame.feed(shown)
    assert found.keys() == {"iframe"} and "sandbox" in found["iframe"]
    assert found["iframe"]["srcdoc"] == '<p title="a">a & b</p>'
