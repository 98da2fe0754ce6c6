"""What of a U-Net is saved, and what reading it needs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.tiny_sd import TEXT_WIDTH, inputs_for, set_random_null, tiny_sd
from latentsmith.backbones.export import load_backbone, save_backbone
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.errors import UserError


def test_saved_is_what_trains(tiny_pipelines, tmp_path, monkeypatch):
    source = tiny_pipelines("sd15")
    monkeypatch.chdir(Path(source).parent)
    network = SDUNetConfig(source="sd15", text_length=20).build()
    set_random_null(network)
    for p in network.parameters():
        if p.requires_grad:
            p.data += 0.1
    folder = save_backbone(network, tmp_path / "network")
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "trainable.safetensors"]
    small = 4 * (network.parameter_counts()["lora"] + 20 * TEXT_WIDTH)
    assert (folder / "trainable.safetensors").stat().st_size < small + 4000
    monkeypatch.chdir(tmp_path)  # a source given as a relative folder is found from elsewhere
    torch.manual_seed(9)
    loaded = load_backbone(folder)
    assert loaded.config == network.config and not loaded.training
    assert torch.equal(loaded(*inputs_for(network)).sample, network(*inputs_for(network)).sample)
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(loaded.conditions.null_text, network.conditions.null_text)
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"is no saved backbone: it has no config.json"):
        load_backbone(folder)


def test_another_base_is_refused(tmp_path):
    source = tiny_sd(tmp_path / "base")
    folder = save_backbone(SDUNetConfig(source=source).build(), tmp_path / "network")
    tiny_sd(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match="other frozen weights than those its source"):
        load_backbone(folder)
    shutil.rmtree(source)
    with pytest.raises(UserError, match="cannot load the U-Net"):
        load_backbone(folder)


def test_fully_trained_stands_alone(tmp_path):
    source = tiny_sd(tmp_path / "base", "sdxl")
    network = SDUNetConfig(source=source, adapt="full", text_length=20).build()
    set_random_null(network)
    assert all(p.requires_grad for p in network.parameters())
    assert network.parameter_counts()["trainable"] == network.parameter_counts()["unet"]
    folder = save_backbone(network, tmp_path / "network")
    shutil.rmtree(source)
    loaded = load_backbone(folder)
    assert loaded.config == network.config and loaded.predicts == "noise"
    assert torch.equal(loaded(*inputs_for(network)).sample, network(*inputs_for(network)).sample)
    assert json.loads((folder / "config.json").read_text())["settings"]["source"] == "scratch"


def test_training_state_holds_lora_alone(network, tmp_path):
    from latentsmith.training.checkpoint import load, write
    from latentsmith.training.ema import EMA
    from latentsmith.training.parts import saved_buffers, trainable
    from latentsmith.training.task import Task

    class Around(Task):
        def __init__(self):
            super().__init__()
            self.backbone = network

    params, buffers = trainable(Around()), saved_buffers(Around())
    assert sum(p.numel() for p in params.values()) == network.parameter_counts()["lora"]
    assert list(buffers) == ["backbone.conditions.null_text"]
    ema = EMA(params, 0.9)
    assert ema.tensors().keys() == params.keys()
    write(tmp_path / "0", {"model": {**params, **buffers}, "ema": ema.tensors()}, {})
    again = load(tmp_path / "0", "model")
    assert all(torch.equal(again[name], p) for name, p in params.items())
