"""Every preset in the package composes and validates; found by walking the folders."""

import pytest

from latentsmith.autoencoders.field.decoders import DECODERS
from latentsmith.backbones.mixers import MIXERS
from latentsmith.config.compose import compose, nodes_of
from latentsmith.config.fields import settings_of
from latentsmith.config.saved import from_yaml, to_yaml
from latentsmith.recipes.base import RECIPES
from latentsmith.training.config import TrainConfig

SCALES = {"smoke", "laptop", "paper"}


def trained() -> list[str]:
    """Recipes that train something, and so come in scales."""
    return [
        entry.name
        for entry in RECIPES
        if any(s.section is TrainConfig for s in settings_of(entry.config).values())
    ]


def presets() -> list[tuple[str, str]]:
    """(recipe, ``group=preset``) of every preset file, and of every kind of every choice."""
    found = []
    for recipe in RECIPES.names():
        nodes = nodes_of(recipe)
        for group in [*nodes.registries, *nodes.global_groups()]:
            found += [(recipe, f"{group}={name}") for name in nodes.presets_of(group)]
    return found


def kinds() -> list[tuple[str, str]]:
    """(recipe, ``field=kind``) of every choice at the top of a recipe."""
    return [
        (recipe, f"{name}={entry.name}")
        for recipe in trained()
        for name, setting in settings_of(RECIPES[recipe].config).items()
        if setting.registry is not None and not setting.mapping
        for entry in setting.registry
        if not any(s.required for s in settings_of(entry.config).values())
        and (name != "teacher" or entry.config.gives_tokens)  # others are refused, tested there
    ]


def with_tokens(word: str) -> list[str]:
    """VA-VAE needs an encoder with patch tokens, which the smoke scale's is not."""
    return ["encoder=efficientnet_lite0"] if "vavae" in word else []


@pytest.mark.parametrize(("recipe", "word"), presets())
def test_preset_composes_and_reloads(recipe, word):
    words = [word] if word.startswith("scale=") else ["scale=smoke", word]
    config = compose(recipe, words + with_tokens(word))
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize(("recipe", "word"), kinds())
def test_every_kind_can_be_swapped_in_at_smoke_scale(recipe, word):
    config = compose(recipe, ["scale=smoke", word, *with_tokens(word)])
    name, kind = word.split("=")
    assert getattr(config, name).kind == kind


@pytest.mark.parametrize("recipe", trained())
def test_every_recipe_has_the_three_scales(recipe):
    assert set(nodes_of(recipe).presets_of("scale")) >= SCALES


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        *(("field", f"field.mixer={name}") for name in MIXERS.names()),
        *(("field", f"field.decoder={name}") for name in DECODERS.names()),
        ("psvae", "text_encoder=minilm"),
        ("urepa", "text_encoder=minilm"),
    ],
)
def test_what_a_recipe_is_asked_to_swap_can_be_at_every_scale(scale, recipe, word):
    compose(recipe, [f"scale={scale}", word])


def test_another_mixer_leaves_the_source_s_baseline_its_scans():
    flow = compose("field", ["flows.mamba_flow.mixer=s6"]).flows.mamba_flow
    assert flow.mixer.curves == ["rows", "columns"]
    assert flow.mixer.rule == "euler"
