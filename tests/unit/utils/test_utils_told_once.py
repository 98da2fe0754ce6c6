"""A mistake of several processes: threads stand for them, which meet as processes do."""

import threading

import pytest

from helpers.ports import free_port
from latentsmith.utils import told_once


@pytest.fixture
def meeting(monkeypatch):
    """An address that nobody listens at yet, as srun's; one that answers nothing for long."""
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(told_once, "PATIENCE", 0.5)


def told(capsys, *messages: str | None) -> list[str]:
    """What is printed when process k has met with the k-th message; None: with none."""
    ranks = [
        threading.Thread(target=told_once._tell, args=(text, rank, len(messages)))
        for rank, text in enumerate(messages)
        if text is not None
    ]
    for rank in reversed(ranks):  # the first one comes last
        rank.start()
    for rank in ranks:
        rank.join()
    return sorted(capsys.readouterr().err.splitlines())


@pytest.mark.usefixtures("meeting")
def test_what_all_have_met_with_is_told_once(capsys):
    assert told(capsys, *["no folder"] * 3) == ["latentsmith: no folder"]


@pytest.mark.usefixtures("meeting")
def test_what_is_one_processs_own_is_told_with_its_number(capsys):
    said = told(capsys, "no folder", "no folder", "no disk")
    assert said == ["latentsmith: no folder", "latentsmith: process 2: no disk"]


@pytest.mark.usefixtures("meeting")
def test_the_only_one_with_a_mistake_is_heard(capsys):
    assert told(capsys, None, "no disk") == ["latentsmith: process 1: no disk"]


def test_without_a_meeting_place_everybody_speaks(capsys, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said = told(capsys, "no folder", "no folder")
    assert said == ["latentsmith: no folder", "latentsmith: process 1: no folder"]


def test_torchruns_store_is_asked_where_it_keeps_one(capsys, monkeypatch, meeting):
    from datetime import timedelta

    from torch.distributed import TCPStore

    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    assert told(capsys, "no folder", "no folder") == ["latentsmith: no folder"]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # what was told before the restart
    assert told(capsys, None, "no folder") == ["latentsmith: process 1: no folder"]
    agent.wait(["latentsmith/mistake/0"], timedelta(seconds=1))
