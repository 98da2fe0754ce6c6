"""Variation, inpainting, edits: what is kept, what is new, and what they refuse."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from helpers.tiny_models import tiny_clip_text
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.errors import UserError
from latentsmith.sampling.edit import edit
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.edit import EditGuidanceConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.inpaint import inpaint
from latentsmith.sampling.samplers import SAMPLERS
from latentsmith.sampling.samplers.base import SteppedConfig
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.samplers.sde import SdeConfig
from latentsmith.sampling.variation import variation

HOW = {"sampler": EulerConfig(steps=4), "guidance": NoGuidanceConfig()}


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


# Variation ----------------------------------------------------------------------------------------


def test_strength_zero_is_the_reconstruction_and_one_ignores_the_image(classes, images):
    back = variation(classes, images, strength=0, **HOW)
    with torch.no_grad():
        known = classes.autoencoder.decode(classes.autoencoder.encode(images).mode()).clamp(0, 1)
    assert same(back, known)
    labels = torch.tensor([0, 1, 2, 0, 1])
    new = variation(classes, images, strength=1, labels=labels, seed=3, **HOW)
    assert torch.equal(
        new, variation(classes, 1 - images, strength=1, labels=labels, seed=3, **HOW)
    )
    assert same(new, classes.sample(range(5), labels=labels, seed=3, **HOW))


def test_strength_one_ignores_the_image_where_a_path_never_quite_does(classes, images):
    info = replace(classes.info, path=VPPathConfig())  # 0.6 % of the data are left at t = 1
    generator = LatentGenerator(classes.backbone, info, classes.normalizer, classes.autoencoder)
    found = (variation(generator, x, strength=1, **HOW) for x in (images, 1 - images))
    assert torch.equal(*found)
    nearly = (variation(generator, x, strength=0.999, **HOW) for x in (images, 1 - images))
    assert not torch.equal(*nearly)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_more_strength_is_further_away(classes, images, name):
    config = SAMPLERS[name].config
    config = config(steps=8) if issubclass(config, SteppedConfig) else config(rtol=1e-3, atol=1e-3)
    how = {**HOW, "sampler": config}
    back = variation(classes, images, strength=0, **how)
    far = [
        float((variation(classes, images, strength=s, **how) - back).abs().mean())
        for s in (0.01, 0.3, 0.9)
    ]
    assert far[0] < far[1] < far[2] and far[0] < 0.02


@pytest.mark.parametrize("sampler", [EulerConfig(steps=4), SdeConfig(steps=4)])
def test_variations_belong_to_their_index(classes, images, sampler):
    how = {**HOW, "sampler": sampler, "strength": 0.7, "seed": 2}
    whole = variation(classes, images, batch_size=5, **how)
    assert same(variation(classes, images, batch_size=2, **how), whole)
    some = variation(classes, images[[3, 1]], indices=[3, 1], **how)
    assert same(some, whole[[3, 1]])
    assert not same(variation(classes, images, **{**how, "seed": 9}), whole)
    twice = variation(classes, images[[0, 0]], indices=[0, 1], **how)
    assert not same(twice[0], twice[1])


def test_what_it_is_to_show(classes, reader, images):
    how = {**HOW, "strength": 0.8}
    plain = variation(classes, images, **how)
    a, b = (variation(classes, images, labels=torch.full((5,), n), **how) for n in (0, 1))
    assert not same(plain, a) and not same(a, b)
    said = reader.prompt(["a red cat"] * 5)
    silent, told = (
        variation(reader, images, **how),
        variation(reader, images, condition=said, **how),
    )
    assert not same(silent, told)
    empty = variation(reader, images, condition=reader.prompt([""] * 5), **how)
    assert same(silent, empty), "nothing is said by the empty prompt"


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_strength_outside(classes, images, strength):
    with pytest.raises(UserError, match=r"give a number from 0 \(the image itself\) to 1"):
        variation(classes, images, strength=strength, **HOW)


def test_images_that_do_not_fit(classes, images):
    with pytest.raises(
        UserError, match=r"\[5, 3, 8, 16\] given to a generator of \[N, 3, 16, 16\]"
    ):
        variation(classes, images[:, :, :8], **HOW)
    with pytest.raises(UserError, match=r"values from 0 to 255: give them in \[0, 1\]"):
        variation(classes, torch.linspace(0, 255, 768).view(1, 3, 16, 16), **HOW)
    with pytest.raises(UserError, match=r"1 channel"):
        variation(classes, images[:, :1], **HOW)
    blind = LatentGenerator(classes.backbone, classes.info, classes.normalizer)
    with pytest.raises(UserError, match="without an autoencoder"):
        variation(blind, images, **HOW)


# Inpainting ---------------------------------------------------------------------------------------


def hole(*boxes):
    mask = torch.zeros(1, 1, 16, 16)
    for top, left, bottom, right in boxes:
        mask[..., top:bottom, left:right] = 1
    return mask


def latent_cells(generator, images, masks, **how):
    """Which latent cells differ from the images' own, bool [N, 4, 4]."""
    seen = []
    decode = generator.decode
    generator.decode = lambda z, **_: seen.append(z) or decode(z)
    try:
        inpaint(generator, images, masks, **{**HOW, **how})
    finally:
        del generator.decode
    return ((seen[0] - generator.encode(images)).abs() > 1e-4).any(1)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_touched_cells_are_new_and_the_others_are_kept(classes, images, name):
    config = SAMPLERS[name].config
    config = config(steps=5) if issubclass(config, SteppedConfig) else config(rtol=1e-2, atol=1e-2)
    wanted = torch.zeros(4, 4, dtype=torch.bool)
    wanted[0, 0], wanted[1:3, 2] = True, True  # one pixel of a cell; two cells
    cells = latent_cells(classes, images, hole((3, 3, 4, 4), (5, 9, 11, 11)), sampler=config)
    assert bool((cells == wanted).all())


@pytest.mark.parametrize("rounds", [1, 3])
def test_pixels_outside_are_the_images_own(classes, images, rounds):
    mask, how = hole((4, 4, 9, 12)), {**HOW, "rounds": rounds}
    found = inpaint(classes, images, mask, **how)
    outside = (mask == 0).expand_as(images)
    assert torch.equal(found[outside], images[outside])
    assert not same(found[~outside], images[~outside])
    loose = inpaint(classes, images, mask, paste=False, **how)
    assert not same(loose[outside], images[outside])
    assert torch.equal(loose[~outside], found[~outside])


def test_rounds_go_on_from_the_round_before(classes, images):
    mask = hole((4, 4, 12, 12))
    one, two, three = (inpaint(classes, images, mask, rounds=n, **HOW) for n in (1, 2, 3))
    assert not same(one, two) and not same(two, three)
    anew = inpaint(classes, images, mask, rounds=2, back_to=1, **HOW)
    assert not same(anew, one), "each round has a noise of its own"
    near = inpaint(classes, images, mask, rounds=2, back_to=0.01, **HOW)
    assert float((near - one).abs().max()) < 0.1 * float((two - one).abs().max())


def test_inpainting_belongs_to_its_index(classes, images):
    masks = torch.cat([hole((0, 0, n + 2, 8)) for n in range(5)])
    how = {**HOW, "sampler": SdeConfig(steps=4), "seed": 2, "rounds": 2}
    whole = inpaint(classes, images, masks, batch_size=5, **how)
    assert same(inpaint(classes, images, masks, batch_size=2, **how), whole)
    some = inpaint(classes, images[[3, 1]], masks[[3, 1]], indices=[3, 1], **how)
    assert same(some, whole[[3, 1]])
    assert not same(inpaint(classes, images, masks, **{**how, "seed": 9}), whole)


def test_the_known_part_matters_to_the_new_one(classes, images):
    mask, other = hole((4, 4, 8, 8)), images.clone()
    other[..., 8:, :] = 0
    new = [inpaint(classes, x, mask, **HOW)[..., 4:8, 4:8] for x in (images, other)]
    assert not torch.allclose(*new, atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "how", "message"),
    [
        (torch.zeros(1, 1, 16, 16), {}, "the mask is empty"),
        (torch.ones(1, 1, 8, 8), {}, r"masks of shape \[1, 1, 8, 8\] for images \[5, 3, 16, 16\]"),
        (torch.ones(2, 1, 16, 16), {}, r"give \[5, 1, 16, 16\], or one for all"),
        (torch.ones(1, 1, 16, 16), {"rounds": 0}, "rounds=0: give 1 or more"),
    ],
)
def test_masks_that_do_not_fit(classes, images, mask, how, message):
    with pytest.raises(UserError, match=message):
        inpaint(classes, images, mask, **HOW, **how)


# Edits --------------------------------------------------------------------------------------------


def test_edits_follow_image_and_instruction(reader, images):
    how = {**HOW, "guidance": EditGuidanceConfig(text=3, image=2)}
    red, green = (edit(reader, images, [f"the {word} cat"], **how) for word in ("red", "green"))
    assert red.shape == images.shape and not same(red, green)
    assert not same(edit(reader, 1 - images, ["the red cat"], **how), red)
    mixed = edit(reader, images, [*["the red cat"] * 3, *["the green cat"] * 2], **how)
    assert same(mixed, torch.cat([red[:3], green[3:]]))


def test_edits_belong_to_their_index(reader, images):
    how = {**HOW, "sampler": SdeConfig(steps=4), "seed": 2}
    whole = edit(reader, images, ["a dog"], batch_size=5, **how)
    assert same(edit(reader, images, ["a dog"], batch_size=2, **how), whole)
    assert same(edit(reader, images[[3, 1]], ["a dog"], indices=[3, 1], **how), whole[[3, 1]])
    assert not same(edit(reader, images, ["a dog"], **{**how, "seed": 3}), whole)


def test_edits_need_a_generator_that_was_trained_on_them(classes, reader, images, tmp_path):
    untaught = replace(reader.info, training={"samples": 1, "edits": False})
    never = LatentGenerator(reader.backbone, untaught, reader.normalizer, reader.autoencoder)
    for generator in (classes, never):
        with pytest.raises(UserError, match="was not trained on edits: use variation or inpaint"):
            edit(generator, images, ["a dog"], **HOW)


@pytest.mark.parametrize("instructions", [["a", "b"], [], "a dog"])
def test_instructions_that_do_not_fit(reader, images, instructions):
    with pytest.raises(UserError, match=r"instruction\(s\) for 5 images"):
        edit(reader, images, instructions, **HOW)


# Prompts ------------------------------------------------------------------------------------------


def test_prompts_are_read_by_the_generators_own_encoder(reader, tmp_path):
    loaded = LatentGenerator.load(reader.save(tmp_path / "g"))
    said = loaded.prompt(["a red cat", "the house"])
    encoder = ClipTextConfig(**reader.info.text_encoder["settings"]).build()
    out = encoder(["a red cat", "the house"])
    torch.testing.assert_close(said["text"], out.sequence)
    assert torch.equal(said["mask"], out.mask) and set(said) == {"text", "mask"}
    first = loaded._text_encoder
    loaded.prompt(["a dog"])
    assert first is not None and loaded._text_encoder is first, "loaded once"
    guided = {**HOW, "guidance": CfgConfig(scale=3)}
    a, b = (loaded.sample([0], condition=loaded.prompt([t]), **guided) for t in ("a cat", "a dog"))
    assert not same(a, b)


def test_many_prompts_are_one_condition(reader):
    texts = [f"a {'red ' * (n % 5)}cat" for n in range(130)]
    said = reader.prompt(texts)
    assert said["text"].shape == (130, 12, 16)
    torch.testing.assert_close(said["text"][[129]], reader.prompt(texts[129:])["text"])


def test_another_text_encoder_is_refused_naming_both(reader, tmp_path):
    other = ClipTextConfig(
        source=tiny_clip_text(tmp_path / "o", projection=False), projection=False
    )
    theirs = reader.info.text_encoder["fingerprint"]["weights"][:12]
    with pytest.raises(UserError) as refused:
        reader.prompt(["a cat"], encoder=other.build())
    text = str(refused.value)
    assert "clip_text is not the text encoder of the generator: its weights is " in text
    assert other.build().digest()[:12] in text and f"was trained with {theirs}" in text
    kept = {**reader.info.text_encoder, "settings": {**vars(other)}}
    moved = LatentGenerator(
        reader.backbone, replace(reader.info, text_encoder=kept), reader.normalizer
    )
    with pytest.raises(UserError, match="is not the text encoder of the generator"):
        moved.prompt(["a cat"])
    own = ClipTextConfig(**reader.info.text_encoder["settings"]).build()
    assert reader.prompt(["a cat"], encoder=own)["text"].shape == (1, 12, 16)


def test_a_cut_prompt_is_said(reader, caplog):
    with caplog.at_level(logging.WARNING):
        reader.prompt(["a cat", "red " * 30])
    assert "1 of 2 prompts are longer than the 12 tokens that are read" in caplog.text
    assert "'red red" in caplog.text
    caplog.clear()
    reader.prompt(["a cat"])
    assert not caplog.records


def test_generators_that_read_nothing_or_do_not_say_how(classes, reader):
    with pytest.raises(UserError, match=r"on classes and not on texts \(labels: a, b, c\)"):
        classes.prompt(["a cat"])
    old = LatentGenerator(
        reader.backbone, replace(reader.info, text_encoder=None), reader.normalizer
    )
    with pytest.raises(UserError, match="does not say by which text encoder"):
        old.prompt(["a cat"])
    with pytest.raises(UserError, match="no prompts: give a list"):
        reader.prompt([])
    with pytest.raises(UserError, match="makes images from texts, and got none: give prompts"):
        reader.sample([0], **HOW)


def test_files_from_before_prompts_are_read(reader, tmp_path):
    file = reader.save(tmp_path / "g") / "generator.json"
    value = json.loads(file.read_text())
    assert value.pop("text_encoder") == reader.info.text_encoder
    file.write_text(json.dumps(value))
    assert LatentGenerator.load(tmp_path / "g").info == replace(reader.info, text_encoder=None)
