"""Saving and loading networks: what can be wrong with a folder. That it works at all is in the
contract tests."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.backbones import randomized, tiny
from latentsmith.backbones import export
from latentsmith.backbones.export import CONFIG, WEIGHTS, load_backbone, save_backbone
from latentsmith.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return save_backbone(tiny().build((4, 8, 8), 5), tmp_path / "network")


def test_the_config_says_what_the_network_is(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config["_class_name"] == "LatentsmithBackbone"
    assert config["settings"]["kind"] == "sit" and config["settings"]["width"] == 24
    assert config["latent_shape"] == [4, 8, 8] and config["classes"] == 5


def test_saving_again_replaces(folder):
    network = randomized(tiny("dit").build((4, 8, 8), None))
    save_backbone(network, folder)
    loaded = load_backbone(folder)
    assert loaded.config.kind == "dit" and loaded.classes is None
    assert torch.equal(loaded.final.linear.weight, network.final.linear.weight)
    assert [f.name for f in folder.parent.iterdir()] == ["network"]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_incomplete_and_damaged_folders_are_told(folder, name):
    (folder / name).write_bytes(b"{")
    with pytest.raises(UserError, match="is damaged"):
        load_backbone(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"no saved backbone: it has no {name}"):
        load_backbone(folder)


def test_weights_that_do_not_fit_are_named(folder):
    state = load_file(folder / WEIGHTS)
    del state["network.patches.bias"]
    state["network.extra"] = torch.zeros(1)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"lacks patches\.bias; has an unexpected extra"):
        load_backbone(folder)


def test_another_class_and_another_version_are_told(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="holds a UNet2DModel"):
        load_backbone(folder)
    config["settings"]["wings"] = 2
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="wings"):
        load_backbone(folder)


def test_loading_needs_no_diffusers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.modeling_utils", None)
    export.diffusers_class.cache_clear()
    assert load_backbone(folder).classes == 5
    with pytest.raises(ImportError):
        export.diffusers_class()


def test_half_precision_stays(folder):
    network = tiny().build((4, 8, 8), 5).bfloat16()
    save_backbone(network, folder)
    loaded = load_backbone(folder)
    assert loaded.patches.weight.dtype == torch.bfloat16
    assert loaded.time.frequencies().dtype == torch.float32
