"""Whole or absent, checked, and loaded without pickle."""

import errno
import json

import pytest
import torch
from toy_training import assert_same_run, toy_fit

from latentsmith.errors import UserError
from latentsmith.training import checkpoint


def write(root, samples, value=0.0, **state):
    path = checkpoint.folder_of(root, samples)
    checkpoint.write(path, {"model": {"w": torch.full((4,), value)}}, {"samples": samples, **state})
    return path


def test_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.randn(2, 3).T}
    path = checkpoint.folder_of(tmp_path, 12)
    checkpoint.write(path, {"model": tensors}, {"samples": 12})
    assert checkpoint.verify(path) == {"samples": 12}
    loaded = checkpoint.load(path, "model")
    assert all(loaded[name].equal(tensor) for name, tensor in tensors.items())
    assert checkpoint.load(path, "ema") == {}


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_every_damage_is_found_and_named(tmp_path, file, damage):
    path = write(tmp_path, 8, note="hello")
    data = bytearray((path / file).read_bytes())
    if damage == "flip":
        spot = data.index(b"hello") if file == "state.json" else len(data) - 1
        data[spot] ^= 1
        (path / file).write_bytes(data)
    elif damage == "cut":
        (path / file).write_bytes(data[: len(data) // 2])
    else:
        (path / file).unlink()
    with pytest.raises(checkpoint.CorruptCheckpoint, match=file):
        checkpoint.verify(path)


def test_newest_valid_passes_over_the_corrupt_loudly(tmp_path):
    for samples in (8, 16, 24):
        write(tmp_path, samples)
    (tmp_path / "000000000024" / "model.safetensors").write_bytes(b"")
    said = []
    path, state = checkpoint.newest_valid(tmp_path, said.append)
    assert path.name == "000000000016" and state == {"samples": 16}
    assert len(said) == 1 and "000000000024/model.safetensors" in said[0]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest_valid(tmp_path / "none", print) is None


def test_prune_keeps_the_newest_valid_whatever_lies_after_it(tmp_path):
    for samples in (8, 16, 24, 32, 40):
        write(tmp_path, samples)
    # 40 is corrupt, training went back to 24 and has just written 32 again.
    checkpoint.prune(tmp_path, tmp_path / "000000000032", keep=2)
    assert [p.name[-2:] for p in checkpoint.listed(tmp_path)] == ["24", "32", "40"]
    checkpoint.prune(tmp_path, tmp_path / "000000000032", keep=1)
    assert [p.name[-2:] for p in checkpoint.listed(tmp_path)] == ["32", "40"]


def test_leftovers_go_but_a_checkpoint_moved_aside_comes_back(tmp_path):
    path = write(tmp_path, 8)
    path.replace(tmp_path / ".000000000008.123.old")  # killed between the two renames
    (tmp_path / ".000000000016.123.tmp").mkdir()
    checkpoint.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["000000000008"]
    assert checkpoint.verify(path) == {"samples": 8}


def test_disk_full_in_the_middle_is_told_and_harms_nothing(tmp_path, monkeypatch):
    toy_fit("denoiser", tmp_path / "whole")
    real, writes = checkpoint.save_tensors, []

    def full(group, path):
        writes.append(path)
        if len(writes) > 3:  # the second checkpoint's second file
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(group, path)

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(UserError, match="no space left on the disk") as stopped:
        toy_fit("denoiser", tmp_path / "a")
    assert "000000000016 is intact" in str(stopped.value)
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["000000000016"]
    monkeypatch.setattr(checkpoint, "save_tensors", real)
    toy_fit("denoiser", tmp_path / "a")
    assert_same_run(tmp_path / "whole", tmp_path / "a")


def test_safetensors_own_disk_full_error_is_understood(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(group, path):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(UserError, match="there is none yet"):
        write(tmp_path, 8)


def test_other_write_errors_pass_through(tmp_path, monkeypatch):
    def broken(group, path):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(checkpoint, "save_tensors", broken)
    with pytest.raises(OSError, match="input/output"):
        write(tmp_path, 8)


def test_another_models_tensors_are_refused(tmp_path):
    """A scalar or row would broadcast silently into a matrix."""
    toy_fit("denoiser", tmp_path)
    newest = checkpoint.listed(tmp_path / "checkpoints")[-1]
    state, group = checkpoint.verify(newest), checkpoint.load(newest, "model")
    groups = {stem: checkpoint.load(newest, stem) for stem in ("optimizer",)}
    group["net.0.weight"] = group["net.0.weight"][:1]
    checkpoint.write(newest, {"model": group, **groups}, state)
    with pytest.raises(UserError, match=r"of another shape \['net.0.weight \(1, 6\) for \(16, 6\)"):
        toy_fit("denoiser", tmp_path)


def test_differences_are_dotted_and_two_sided():
    saved = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    now = {"a": {"b": 2, "c": [1, 2]}, "e": 5}
    assert checkpoint.differences(saved, now) == {
        "a.b": (1, 2),
        "d": (None, "(absent)"),
        "e": ("(absent)", 5),
    }
    assert checkpoint.differences(saved, saved) == {}


def test_state_is_readable_json(tmp_path):
    path = write(tmp_path, 8)
    whole = json.loads((path / "state.json").read_text())
    assert whole["state"] == {"samples": 8} and list(whole["files"]) == ["model.safetensors"]
