"""SDXL's U-Net in the diffusion task and the generator: it is told texts, their pooled embedding
and image sizes."""

import pytest
import torch

from helpers.tiny_sd import SECOND_WIDTH, SIDE, TEXT_LENGTH, TEXT_WIDTH, condition_for
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.errors import UserError
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.stores.text_table import TextTable
from latentsmith.training.task import StepContext

WHOLE = [8 * SIDE, 8 * SIDE, 0, 0, 8 * SIDE, 8 * SIDE]
WIDTH = TEXT_WIDTH + SECOND_WIDTH


@pytest.fixture(scope="module")
def source(tiny_pipelines):
    return tiny_pipelines("sdxl")


@pytest.fixture
def task(source):
    """On three texts; half of the samples are told nothing."""
    rng = torch.Generator().manual_seed(3)
    words = torch.randn(4, TEXT_LENGTH, WIDTH, generator=rng)
    table = TextTable(
        words, torch.arange(3), pooled=torch.randn(4, SECOND_WIDTH, generator=rng).half()
    )
    network = SDUNetConfig(source=source, text_length=TEXT_LENGTH).build()
    network.conditions.set_null(table.null, table.null_pooled)
    autoencoder = KLAutoencoderConfig(source=source, subfolder="vae").build()
    config = DiffusionConfig(
        path=network.config.path, objective="noise", latent="mode", label_dropout=0.5
    )
    return DiffusionTask(network, config, autoencoder.stated_normalizer(), texts=table)


@pytest.fixture
def seen(task):
    """The conditions the network is given."""
    given = []
    task.backbone.register_forward_pre_hook(lambda module, args: given.append(args[2]))
    return given


def batch_of(n):
    rng = torch.Generator().manual_seed(0)
    return {
        "index": torch.arange(n),
        "latent": 5 * torch.randn(n, 4, SIDE, SIDE, generator=rng),
        "label": torch.randint(3, (n,), generator=rng),
    }


def look(task, batch):
    """Loss of a batch."""
    return task("denoiser", batch, StepContext(50, 100, seed=0))["loss"]


def same(rows, others):
    """Which rows are all the same [B]."""
    return (rows == others).flatten(1).all(1)


def test_texts_and_pooled_are_told_and_dropped_together(task, seen):
    batch = batch_of(32)
    assert look(task, batch).isfinite()
    (condition,), told = seen, task.texts.condition(batch["label"])
    dropped = same(condition["text"], task.texts.null)
    assert 4 < int(dropped.sum()) < 28
    assert torch.equal(same(condition["text"], told["text"]), ~dropped)
    assert torch.equal(same(condition["pooled"], told["pooled"]), ~dropped)
    assert torch.equal(same(condition["pooled"], task.texts.null_pooled), dropped)
    assert condition["time_ids"].tolist() == [WHOLE] * 32
    task.validate(batch, StepContext(0, 100, seed=0))
    assert torch.equal(seen[-1]["pooled"], told["pooled"])
    assert seen[-1]["time_ids"].tolist() == [WHOLE] * 32


def test_joined_texts_come_with_their_pooled_and_before_numbers(task, seen):
    batch = batch_of(3)
    batch["text/embedding"] = torch.randn(3, TEXT_LENGTH, WIDTH)
    with pytest.raises(UserError, match=r"no 'pooled'.*text_encoder=sdxl_text"):
        look(task, batch)
    batch["text/pooled"] = torch.randn(3, SECOND_WIDTH)
    for table in (task.texts, None):
        task.texts = table
        task.validate(batch, StepContext(0, 100, seed=0))
        assert torch.equal(seen[-1]["text"], batch["text/embedding"])
        assert torch.equal(seen[-1]["pooled"], batch["text/pooled"])


def test_a_batch_may_say_other_sizes(task, seen):
    sizes = torch.tensor([[768, 512, 0, 64, 512, 512]]).expand(4, -1)
    look(task, batch_of(4) | {"time_ids": sizes})
    assert torch.equal(seen[-1]["time_ids"], sizes)


def test_texts_without_pooled_are_refused_with_the_way_out(task):
    task.texts.pooled = None
    with pytest.raises(UserError, match=r"no 'pooled'.*text_encoder=sdxl_text"):
        look(task, batch_of(2))


@pytest.fixture
def generator(task, source, tmp_path):
    decoder = KLAutoencoderConfig(source=source, subfolder="vae").build()
    decoder.stated_normalizer()
    decoder.save_pretrained(tmp_path / "vae")
    normalizer = decoder.require_normalizer()
    pairing = Pairing(
        decoder.encoder_digest(), decoder.digest(), normalizer_digest(normalizer), latents="s"
    )
    vae, path = str(tmp_path / "vae"), task.backbone.config.path
    info = GeneratorInfo(path, pairing, vae, ["a", "b", "c"], {"samples": 1})
    return LatentGenerator(task.backbone, info, normalizer, decoder, task.texts)


HOW = {"sampler": DdimConfig(steps=2), "guidance": CfgConfig(scale=2.0)}


def test_saved_generators_are_told_the_same(generator, tmp_path, seen):
    made = generator.sample(range(3), **HOW)
    assert made.isfinite().all()
    assert all(c["time_ids"].unique(dim=0).tolist() == [WHOLE] for c in seen)
    loaded = LatentGenerator.load(generator.save(tmp_path / "generator"))
    assert loaded.texts is not None and loaded.texts.pooled is not None
    assert torch.equal(loaded.texts.pooled, generator.texts.pooled)
    torch.testing.assert_close(loaded.sample(range(3), **HOW), made, rtol=1e-5, atol=1e-5)
    other = generator.texts.pooled.clone()
    other[1] += 3
    loaded.texts.pooled = other  # of the second class
    different = loaded.sample(range(3), **HOW)
    torch.testing.assert_close(different[0], made[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(different[1], made[1], atol=1e-4)


def test_prompts_need_not_say_sizes(generator, seen):
    prompts = condition_for(generator.backbone, 2)
    told = {name: prompts[name] for name in ("text", "pooled")}
    made = generator.sample_latents(range(2), condition=told, **HOW)
    assert made.isfinite().all() and seen[0]["time_ids"][0].tolist() == WHOLE
    generator.sample_latents(range(2), condition=prompts, **HOW)
    assert torch.equal(seen[-1]["time_ids"][:2], prompts["time_ids"])
    with pytest.raises(UserError, match=r"no 'pooled'.*text_encoder=sdxl_text"):
        generator.sample_latents(range(2), condition={"text": prompts["text"]}, **HOW)
