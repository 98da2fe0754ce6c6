"""What lies between two prompts, and what each of many images is to show."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.prompts import between
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.wanted import Wanted

SHORT, LONG = "cat", "a small red house of the large dog"
HOW = {"sampler": EulerConfig(steps=3), "guidance": CfgConfig(scale=2)}


@pytest.fixture(scope="module")
def ends(reader):
    return reader.prompt([SHORT]), reader.prompt([LONG])


def along(ends, weights):
    start, end = ({k: v.expand(len(weights), *v.shape[1:]) for k, v in e.items()} for e in ends)
    return between(start, end, torch.tensor(weights))


def test_the_line_between_hidden_states_and_masks(ends):
    (short, long), found = ends, along(ends, [0.0, 0.25, 1.0])
    for name in ("text", "mask"):
        a, b = short[name][0].float(), long[name][0].float()
        assert torch.equal(found[name][0], a) and torch.equal(found[name][2], b)
        torch.testing.assert_close(found[name][1], 0.75 * a + 0.25 * b)
    tail = long["mask"][0] & ~short["mask"][0]
    assert tail.sum() == 7 and bool((found["mask"][1][tail] == 0.25).all())


def test_pooled_vectors_go_along():
    told = [{"text": torch.randn(1, 3, 4), "pooled": torch.randn(1, 5)} for _ in range(2)]
    found = along(told, [0.5])
    torch.testing.assert_close(found["pooled"], (told[0]["pooled"] + told[1]["pooled"]) / 2)


def test_ends_are_the_prompts_own_images(reader, ends):
    found = reader.sample_latents([4, 4], condition=along(ends, [0.0, 1.0]), **HOW)
    both = {name: torch.cat([e[name] for e in ends]) for name in ends[0]}
    assert torch.equal(found, reader.sample_latents([4, 4], condition=both, **HOW))


def test_no_jump_where_the_longer_text_begins(reader, ends):
    def change(condition):
        first, second = reader.sample_latents([4, 4], condition=condition, **HOW)
        return float((first - second).abs().max())

    near, joined = along(ends, [0.0, 1e-5]), along(ends, [0.0, 1e-5])
    joined["mask"] = joined["mask"].ceil()
    whole = change(along(ends, [0.0, 1.0]))
    assert change(near) < 1e-3 * whole < 0.1 * change(joined)


def test_what_each_image_shows(reader, classes):
    numbers = torch.tensor([5, 6, 7])
    wanted = Wanted.of(reader, numbers, prompts=["a cat", "a dog"])
    assert wanted.told() == ([None] * 3, ["a dog", "a cat", "a dog"])
    own = wanted.of_rows(torch.tensor([1]))["condition"]
    assert all(torch.equal(own[k], v) for k, v in reader.prompt(["a cat"]).items())
    wanted = Wanted.of(classes, numbers, labels=["c", 0])
    assert wanted.told() == ([0, 2, 0], [None] * 3)
    assert wanted.of_rows(torch.tensor([0, 1]))["labels"].tolist() == [0, 2]
    with pytest.raises(UserError, match="makes images from texts, and got none"):
        Wanted.of(reader, numbers)
    with pytest.raises(UserError, match="trained without classes"):
        Wanted.of(reader, numbers, labels=["a"])
    with pytest.raises(UserError, match="trained on classes and not on texts"):
        Wanted.of(classes, numbers, prompts=["a cat"])
