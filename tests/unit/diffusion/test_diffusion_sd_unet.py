"""Stable Diffusion's U-Net in the diffusion task: trained in part, resumed, saved, sampled, asked
for features. What U-REPA does, at the size of a test."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_sd import SIDE, TEXT_LENGTH, TEXT_WIDTH, condition_for, set_random_null
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.encoders.denoiser import DenoiserConfig, DenoiserEncoder
from latentsmith.errors import UserError
from latentsmith.losses.manifold import ManifoldConfig
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.stores.text_table import TextTable
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.task import StepContext

TEACHER = 6


def autoencoder(source):
    found = KLAutoencoderConfig(source=source, subfolder="vae").build()
    found.stated_normalizer()
    return found


def texts():
    rng = torch.Generator().manual_seed(3)
    return TextTable(torch.randn(4, TEXT_LENGTH, TEXT_WIDTH, generator=rng), torch.arange(3))


def task(source, scope="mid", **alignment):
    lora = LoraSettings(scope=scope)
    network = SDUNetConfig(source=source, text_length=TEXT_LENGTH, lora=lora).build()
    settings = {
        "blocks": ["mid"], "hidden": None, "layers": 2, "activation": "gelu", "last_bias": False,
        "manifold": ManifoldConfig(),
    } | alignment  # fmt: skip
    config = DiffusionConfig(
        path=network.config.path, objective="noise", latent="mode", label_dropout=0.1,
        alignment=AlignmentConfig(**settings),
    )  # fmt: skip
    table = texts()
    network.conditions.set_null(table.null)
    normalizer = autoencoder(source).require_normalizer()
    return DiffusionTask(network, config, normalizer, teacher_dim=TEACHER, texts=table)


def batch_of(n: int, seed: int = 0) -> dict:
    """Raw latents, whatever their deviation; an 8 x 8 teacher over the 4 x 4 middle block."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "index": torch.arange(n),
        "latent": 5 * torch.randn(n, 4, SIDE, SIDE, generator=rng),
        "label": torch.randint(3, (n,), generator=rng),
        "teacher/tokens": torch.randn(n, 64, TEACHER, generator=rng),
    }


class Source:
    batch_size = 4
    fingerprint: ClassVar = {"table": "toy"}

    def iterate(self, start):
        table = batch_of(16)
        while True:
            rows = torch.arange(start, start + 4) % 16
            yield {name: value[rows] for name, value in table.items()}
            start += 4


@pytest.fixture(scope="module")
def source(tiny_pipelines):
    return tiny_pipelines("sd15")


def test_texts_stand_for_labels_and_the_empty_prompt_for_dropped_ones(source):
    t, batch, seen = task(source), batch_of(64), []
    t.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[2]))
    t("denoiser", batch, StepContext(50, 100, seed=0))
    (condition,) = seen
    told = t.texts(batch["label"])
    dropped = (condition["text"] == t.texts.null).flatten(1).all(1)
    kept = (condition["text"] == told).flatten(1).all(1)
    assert 2 < int(dropped.sum()) < 16 and bool((dropped ^ kept).all())


def test_joined_texts_are_taken_as_they_come(source):
    t, batch = task(source), batch_of(2)
    t.texts = None
    with pytest.raises(UserError, match="conditioned on texts and the batch has no"):
        t("denoiser", batch, StepContext(50, 100, seed=0))
    batch["text/embedding"] = torch.randn(2, TEXT_LENGTH, TEXT_WIDTH)
    assert t("denoiser", batch, StepContext(50, 100, seed=0))["loss"].isfinite()


def test_gradient_reaches_lora_and_head_and_nothing_else(source):
    t = task(source)
    (objective,) = t.objectives()
    names = {n for n, p in t.named_parameters() if p.requires_grad}
    assert {n.split(".")[0] for n in names} == {"backbone", "aligner"}
    assert all("lora" in n for n in names if n.startswith("backbone"))
    assert len(objective.params) == len(names)
    optimizer = torch.optim.SGD(objective.params, lr=0.1)
    for seen in (10, 20):  # B is 0 at first, so A gets none
        optimizer.zero_grad()
        t("denoiser", batch_of(8), StepContext(seen, 100, seed=0))["loss"].backward()
        optimizer.step()
    for name, p in t.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name
        else:
            assert p.grad is None, name


def test_weight_decay_leaves_the_lora_alone(source):
    (objective,) = task(source).objectives()
    spared = {id(p) for p in objective.undecayed}
    t = task(source)
    assert spared and len(spared) == sum("lora" in n for n, _ in t.named_parameters())


def train(source, folder, samples):
    cfg = TrainConfig(
        samples=samples, batch_size=4, lr=1e-2, schedule="constant", ema=0.9, weight_decay=0.01,
        save_every=8, validate_every=16, log_every=8, trackers=[],
    )  # fmt: skip
    t = task(source)
    fit(t, Source(), cfg, folder, val_batch=batch_of(4, seed=9))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = sorted(newest.glob("*.safetensors"))
    return t, {f"{f.stem}:{k}": v for f in files for k, v in load_file(f).items()}, files


def test_resumed_equals_uninterrupted_and_checkpoints_hold_the_trainable_part(source, tmp_path):
    _, whole, files = train(source, tmp_path / "whole", 16)
    train(source, tmp_path / "parts", 8)
    t, parts, _ = train(source, tmp_path / "parts", 16)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    frozen = [n for n, p in t.named_parameters() if not p.requires_grad]
    assert not any(name.split(":")[1].startswith(tuple(frozen)) for name in whole)
    small = sum(p.numel() for p in t.parameters() if p.requires_grad) * 4
    assert sum(f.stat().st_size for f in files) < 6 * small + 50_000
    lines = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    last = [x for x in lines if x["kind"] == "train"][-1]
    assert {"denoiser/alignment", "denoiser/manifold", "denoiser/zero"} <= set(last)


def generator_of(source, folder) -> LatentGenerator:
    t = task(source)
    with torch.no_grad():
        for name, p in t.backbone.named_parameters():
            if "lora" in name:
                p.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    decoder = autoencoder(source)
    decoder.save_pretrained(folder / "vae")
    normalizer = decoder.require_normalizer()
    pairing = Pairing(
        decoder.encoder_digest(), decoder.digest(), normalizer_digest(normalizer), latents="s"
    )
    info = GeneratorInfo(
        t.backbone.config.path, pairing, str(folder / "vae"), ["a", "b", "c"], {"samples": 1}
    )
    return LatentGenerator(t.backbone, info, normalizer, decoder, t.texts)


def test_saved_generators_give_the_same_images_by_the_same_names(source, tmp_path):
    g = generator_of(source, tmp_path)
    how = {"sampler": DdimConfig(steps=3), "guidance": CfgConfig(scale=2.0)}
    made = g.sample(range(3), **how)
    assert made.shape == (3, 3, 32, 32)
    loaded = LatentGenerator.load(g.save(tmp_path / "generator"))
    torch.testing.assert_close(loaded.sample(range(3), **how), made, rtol=1e-5, atol=1e-5)
    other = loaded.sample(range(3), labels=torch.tensor([1, 1, 1]), **how)
    assert torch.allclose(other[1], made[1], atol=1e-5)
    assert not torch.allclose(other[0], made[0], atol=1e-4)


def test_a_saved_generator_is_an_encoder_at_the_cost_of_its_lower_half(source, tmp_path):
    g = generator_of(source, tmp_path)
    encoder = DenoiserEncoder(g, config=DenoiserConfig(tap="mid", time=0.3))
    ran = []
    for name in ("down_blocks.0", "mid_block", "up_blocks.0"):
        g.backbone.unet.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: ran.append(name)
        )
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = encoder(images)
    assert out.tokens.shape == (2, 16, 48) and encoder.grid == (4, 4)
    assert "mid_block" in ran and "up_blocks.0" not in ran
    x = g.normalizer.normalize(g.autoencoder.encode(images).mode())
    t = torch.full((2,), 0.3)
    z = g.path.mix(x, encoder.noise.expand_as(x), t)
    empty = {"text": g.texts.null.expand(2, -1, -1)}
    with torch.no_grad():
        want = g.backbone(z, t, empty, taps=("mid",)).hidden["mid"]
    torch.testing.assert_close(out.tokens, want, rtol=1e-4, atol=1e-5)


def test_xl_is_told_nothing_but_its_size(tiny_pipelines):
    network = SDUNetConfig(source=tiny_pipelines("sdxl"), text_length=TEXT_LENGTH).build()
    with pytest.raises(UserError, match="knows no empty prompt"):
        network.nothing(2, torch.device("cpu"))
    set_random_null(network)
    nothing = network.nothing(2, torch.device("cpu"))
    assert nothing["time_ids"].tolist() == [[128, 128, 0, 0, 128, 128]] * 2
    null = network.null(condition_for(network, 2))
    assert torch.equal(nothing["text"], null["text"])
    assert torch.equal(nothing["pooled"], null["pooled"])
