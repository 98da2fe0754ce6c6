"""``latentsmith explore``: the mistakes of its line, and a page from a process of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from helpers.explored import image_run, text_run
from latentsmith.cli import main
from latentsmith.explore.serve import bound


def refused(capsys, *words) -> str:
    """The one sentence that answers a mistake."""
    assert main(["explore", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err and not out
    return err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere"], "nowhere is not a run folder: it has no config.yaml"),
        ([], "the following arguments are required: RUN"),
        (["run", "--port", "zero"], "argument --port: invalid int value: 'zero'"),
        (["run", "--count", "2"], "argument --count: 2: give 3 to 10000"),
        (["run", "--share"], "--share: no such option"),
    ],
)
def test_mistakes_of_the_line(words, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert why in refused(capsys, *words, *(["--port", "0"] if words == ["nowhere"] else []))


def test_a_run_that_has_trained_nothing(toy, capsys):
    assert main(["run", "toy", "data=dots", "engine=steam", "scale=smoke", "fail=user"]) == 2
    capsys.readouterr()
    (folder,) = toy_runs()
    told = refused(capsys, folder, "--port", "0")
    assert "is not finished and has trained nothing yet: the same latentsmith run command" in told


def toy_runs():
    from pathlib import Path

    from latentsmith.utils.run_folders import find_runs

    return find_runs(Path("runs"))


def test_a_taken_port_and_a_missing_extra_show_before_anything_is_loaded(capsys, monkeypatch):
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        told = refused(capsys, "nowhere", "--port", port)
    assert f"cannot listen on 127.0.0.1, port {port}" in told and "--port 0" in told
    monkeypatch.setattr("latentsmith.explore.serve.NEEDED", ("starlette", "not_there"))
    told = refused(capsys, "nowhere", "--port", "0")
    assert "explore needs not_there: pip install 'latentsmith[ui]'" in told


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    return folder, image_run(folder), text_run(folder)


def test_runs_that_have_nothing_in_common(capsys, runs):
    _, images, texts = runs
    told = refused(capsys, images, texts, "--port", "0")
    assert "runs of images and runs of texts have no samples in common" in told
    assert "given more than once" in refused(capsys, images, images, "--port", "0")


def test_a_page_until_ctrl_c(runs):
    folder, images, _ = runs
    command = [sys.executable, "-m", "latentsmith", "explore", str(images), "--port", "0",
               "--count", "5", "--host", "0.0.0.0"]  # fmt: skip
    env = os.environ | {"LATENTSMITH_CACHE": str(folder / "cache")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout and process.stderr
        try:
            address = process.stdout.readline().split()[0].replace("0.0.0.0", "127.0.0.1")
            with urllib.request.urlopen(address + "api/page", timeout=120) as answer:
                page = json.load(answer)
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert [arm["stage"] for arm in page["arms"]] == ["baseline", "regularized"]
    assert page["samples"]["count"] == 5
    assert "warning: --host 0.0.0.0: every machine that reaches this port" in told
    assert "Traceback" not in told
