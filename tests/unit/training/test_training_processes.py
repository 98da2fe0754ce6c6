"""Two processes: the same training as one, one checkpoint, and nobody left waiting."""

import pytest
import torch
from toy_training import INT, KILL, records, run_processes, tensors, toy_fit


def close(a, b):
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-5, atol=1e-6, msg=name)


def test_two_processes_equal_one_on_the_joined_batch_and_resume(tmp_path):
    settings = {"ema": 0.9, "micro_batch": 2}
    toy_fit("plain", tmp_path / "one", **settings)
    folder = tmp_path / "two"
    assert 0 not in run_processes("plain", folder, processes=2, harm={40: KILL}, **settings)
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())][-1] == "000000000032"
    assert run_processes("plain", folder, processes=2, **settings) == [0, 0]
    close(tmp_path / "one", folder)
    for one, two in zip(records(tmp_path / "one"), records(folder), strict=True):
        assert one.keys() == two.keys() and one["samples"] == two["samples"]
        if one["kind"] == "train":  # losses and gradient norms are those of the whole batch
            assert two["main/loss"] == pytest.approx(one["main/loss"], rel=1e-5)
            assert two["main/grad_norm"] == pytest.approx(one["main/grad_norm"], rel=1e-4)
        else:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_part_that_one_process_lacks_is_the_others(tmp_path):
    """A process without texts has no loss of texts; all go on, and the record is not diluted."""
    assert run_processes("uneven", tmp_path / "two", processes=2) == [0, 0]
    toy_fit("plain", tmp_path / "one")
    for one, two in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        if one["kind"] == "train":
            assert two["main/sometimes"] == 3
            assert two["main/loss"] == pytest.approx(one["main/loss"], rel=1e-5)
            assert two["main/feature"] == pytest.approx(one["main/feature"], rel=1e-4)


def test_two_objectives_over_two_processes(tmp_path):
    settings = {"ema": 0.9}
    assert run_processes("adversarial", tmp_path / "a", processes=2, **settings) == [0, 0]
    start = dict(toy_fit("adversarial", tmp_path / "b", samples=8)[0].named_parameters())
    end = tensors(tmp_path / "a")
    assert (end["model:g.0.weight"] - start["g.0.weight"]).abs().max() > 1e-3
    assert (end["model:d.0.weight"] - start["d.0.weight"]).abs().max() > 1e-3
    # A checkpoint belongs to no number of processes: one process goes on from it.
    _, result = toy_fit("adversarial", tmp_path / "a", samples=96, **settings)
    assert result.samples == 96


def test_a_signal_to_one_process_stops_both_together(tmp_path):
    codes = run_processes("plain", tmp_path, processes=2, harm={16: INT}, only_rank=1)
    assert codes == [1, 1]  # Interrupted, which the command line turns into 130
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())][-1] == "000000000024"


def test_an_error_in_a_task_ends_both_processes(tmp_path):
    """Its traceback holds DDP, which must not hold the group: see HOLDS_THE_GROUP."""
    assert run_processes("broken", tmp_path, processes=2) == [1, 1]


def test_an_error_of_the_main_process_reaches_the_other(tmp_path):
    run_processes("plain", tmp_path, processes=2, samples=16)
    assert run_processes("plain", tmp_path, processes=2, samples=32, lr=1e-3) == [1, 1]
