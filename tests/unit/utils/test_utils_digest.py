"""Digests: stable across order, sensitive to names, shapes, dtypes and every byte."""

import pytest
import torch

from latentsmith.utils.digest import json_digest, state_digest

A, B = torch.arange(6.0), torch.ones(2, 3)


def test_is_a_fixed_function_of_the_content():
    # Written down: caches and saved normalizers carry it across versions.
    assert state_digest({"a": A, "b": B}) == "53923ddc9ed6bedf63f3fc3b93659190"
    assert json_digest({"a": [1, 2.5], "b": None}) == "1de7b8f2267727a8cb63670c5bebc636"


def test_order_and_memory_layout_do_not_matter():
    assert state_digest({"a": A, "b": B}) == state_digest({"b": B, "a": A.clone()})
    square = torch.arange(4.0).view(2, 2)
    assert state_digest({"a": square.T.contiguous().T}) == state_digest({"a": square})


@pytest.mark.parametrize(
    "other",
    [
        {"a": A, "c": B},
        {"a": A, "b": B.view(3, 2)},
        {"a": A, "b": B.double()},
        {"a": A.nextafter(A + 1), "b": B},
        {"a": A},
    ],
)
def test_everything_else_does(other):
    assert state_digest(other) != state_digest({"a": A, "b": B})


def test_all_dtypes_and_scalars():
    state = {"s": torch.tensor(3), "h": A.bfloat16(), "e": torch.empty(0), "b": B.bool()}
    assert len(state_digest(state)) == 32


def test_json_digest_ignores_key_order_and_refuses_nan():
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        json_digest(float("nan"))
