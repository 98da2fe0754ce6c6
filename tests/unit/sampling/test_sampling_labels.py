"""Classes of generated images: by name, by number, in turn."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.sampling.labels import labels_of

CLASSES = ["shoe", "bag", "2", "coat"]


def test_all_classes_in_turn_by_the_images_number():
    assert labels_of(torch.arange(6, 11), [], CLASSES).tolist() == [2, 3, 0, 1, 2]


def test_names_come_before_numbers():
    given = ["coat", 1, "2"]
    assert labels_of(torch.arange(7), given, CLASSES).tolist() == [3, 1, 2, 3, 1, 2, 3]
    assert labels_of(torch.arange(1), [3], CLASSES).tolist() == [3]


@pytest.mark.parametrize("wrong", ["boot", 4, -1, "1.5"])
def test_unknown_classes_are_named_with_those_there_are(wrong):
    with pytest.raises(UserError, match=f"no class '{wrong}'.*0 shoe, 1 bag, 2 2, 3 coat"):
        labels_of(torch.arange(3), [wrong], CLASSES)


def test_an_unconditional_generator_has_none():
    assert labels_of(torch.arange(3), [], None) is None
    with pytest.raises(UserError, match="trained without classes"):
        labels_of(torch.arange(3), ["shoe"], None)
