"""Exported U-Nets: diffusers' own classes give our numbers, in a process without latentsmith."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from helpers.exporting import blocks_of, run_card
from helpers.tiny_sd import TEXT_LENGTH, inputs_for, set_random_null, tiny_sd
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings
from latentsmith.diffusion.align import Aligner, AlignmentConfig
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.export.autoencoder import is_in
from latentsmith.export.folder import export
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.samplers.ddim import DdimConfig

LORA, HEADS = "pytorch_lora_weights.safetensors", "alignment.safetensors, alignment.json"
SAME = {"rtol": 1e-5, "atol": 1e-5}


def stir(module, seed=1):
    """Move every trainable weight, so that nothing is what it started as."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=rng) * 0.05)
    return module


def generator(source, folder, *, path=None, vae_moved=False, heads=None, **settings):
    """A generator around the pipeline at ``source``, with its autoencoder saved in ``folder``."""
    settings = {"text_length": TEXT_LENGTH} | settings
    network = stir(set_random_null(SDUNetConfig(source=source, **settings).build()))
    autoencoder = KLAutoencoderConfig(source=source, subfolder="vae").build()
    if vae_moved:
        stir(autoencoder)
    normalizer = autoencoder.stated_normalizer()
    autoencoder.save_pretrained(folder / "vae")
    digests = autoencoder.encoder_digest(), autoencoder.digest(), normalizer_digest(normalizer)
    info = GeneratorInfo(
        path or network.config.path, Pairing(*digests, latents="store"), str(folder / "vae"),
        ["cat", "dog"], {"samples": 128, "data": "photos"},
    )  # fmt: skip
    aligner = None
    if heads is not None:
        aligner = stir(Aligner(AlignmentConfig(**heads), network, teacher_dim=6))
    return LatentGenerator(network.eval(), info, normalizer, autoencoder, aligner=aligner)


def asked(g, seed=0):
    """(what a network is asked, as plain tensors; what ours answers)."""
    z, t, condition = inputs_for(g.backbone, seed=seed)
    with torch.no_grad():
        want = g.backbone(z, t, condition).sample
    return {"z": z, "i": g.backbone.index(t), **condition}, want


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


UREPA = {
    "blocks": ["mid", "dec_first"], "hidden": None, "layers": 2, "activation": "gelu",
    "last_bias": False,
}  # fmt: skip

ASK_PIPE = "out['y'] = pipe.unet(x['z'], x['i'], x['text']).sample"
ASK_AGAIN = """
pipe.unload_lora_weights()
out["without"] = pipe.unet(x['z'], x['i'], x['text']).sample
pipe.load_lora_weights(".")  # finds the file by itself, beside the other one
out["again"] = pipe.unet(x['z'], x['i'], x['text']).sample
"""
ASK_HEAD = """
maps = {}
for name in ("mid_block", "up_blocks.0"):
    module = pipe.unet.get_submodule(name)
    module.register_forward_hook(lambda m, a, o, name=name: maps.update({name: o}))
pipe.unet(x['z'], x['i'], x['text'])
out['mid'] = heads['mid'](maps['mid_block'].flatten(2).mT)
out['dec'] = heads['dec_first'](maps['up_blocks.0'].flatten(2).mT)
"""


def test_lora_and_heads_as_the_card_loads_them(tiny_pipelines, tmp_path):
    lora = LoraSettings(rank=3, alpha=6.0, scope="all_attention")
    g = generator(tiny_pipelines("sd15"), tmp_path, heads=UREPA, lora=lora)
    out = export(g, tmp_path / "out", name="aligned")
    files = ["README.md", "alignment.json", "alignment.safetensors", LORA, "scheduler"]
    assert names(out) == sorted(files), "the autoencoder is the pipeline's own"
    given, want = asked(g)
    made = run_card(out, ASK_PIPE + ASK_AGAIN + ASK_HEAD, given, parts=[LORA, HEADS])
    torch.testing.assert_close(made["y"], want, **SAME)
    torch.testing.assert_close(made["again"], want, **SAME)
    assert (made["without"] - want).abs().max() > 1e-3
    z, t, condition = inputs_for(g.backbone)
    with torch.no_grad():
        hidden = g.backbone(z, t, condition, taps=("mid", "dec_first")).hidden
        for name, tap in (("mid", "mid"), ("dec", "dec_first")):
            torch.testing.assert_close(made[name], g.aligner.project(tap, hidden[tap], t), **SAME)
    text = (out / "README.md").read_text()
    assert "the output of the U-Net's `mid_block`, 4 x 4 tokens of 48" in text


def test_another_autoencoder_than_the_pipeline_s_goes_along(tiny_pipelines, tmp_path):
    g = generator(tiny_pipelines("sd15"), tmp_path, vae_moved=True)
    out = export(g, tmp_path / "out", name="x")
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    code = "out['own'], out['pipe'] = decode(x['z']), pipe.vae.decode(x['z'] / 0.18215).sample"
    made = run_card(out, code, {"z": z}, parts=[LORA, "vae/"])
    want = g.decode(g.normalizer.denormalize(z))
    torch.testing.assert_close(made["own"].clamp(0, 1), want, **SAME)
    torch.testing.assert_close(((made["pipe"] + 1) / 2).clamp(0, 1), want, **SAME)
    same = generator(tiny_pipelines("sd15"), tmp_path / "same")
    assert (export(same, tmp_path / "with", name="x", with_vae=True) / "vae").is_dir()


def test_only_what_is_on_this_machine_is_compared(tiny_pipelines, tmp_path, monkeypatch, caplog):
    """A pipeline of the hub: its autoencoder from the cache, or none, and a word about it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    own = KLAutoencoderConfig(source=tiny_pipelines("sd15"), subfolder="vae").build()
    assert is_in("some/pipeline", own) is None
    place = tmp_path / "cache" / "models--some--pipeline"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    snapshot = place / "snapshots" / "abc" / "vae"
    shutil.copytree(Path(tiny_pipelines("sd15")) / "vae", snapshot)
    assert is_in("some/pipeline", own) is True
    assert is_in("some/pipeline", stir(own)) is False
    (snapshot / "diffusion_pytorch_model.safetensors").unlink()
    assert is_in("some/pipeline", own) is None
    g = generator(tiny_pipelines("sd15"), tmp_path)
    g.backbone.config = replace(g.backbone.config, source="some/pipeline")
    text = (export(g, tmp_path / "out", name="x") / "README.md").read_text()
    assert "of some/pipeline is not on this machine to compare" in caplog.text
    assert "base_model: some/pipeline" in text
    assert "| autoencoder | not here: that of `some/pipeline`, if its digest" in text


def test_xl_lora(tiny_pipelines, tmp_path):
    """The tiny XL pipeline has no text models: by what its pipeline's loader calls."""
    g = generator(tiny_pipelines("sdxl"), tmp_path)
    out = export(g, tmp_path / "out", name="xl")
    assert "pipe = StableDiffusionXLPipeline.from_pretrained(" in blocks_of(out / "README.md")[LORA]
    given, want = asked(g)
    code = f"""
from diffusers import StableDiffusionXLPipeline as XL, UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained({tiny_pipelines("sdxl")!r}, subfolder="unet")
state, alphas, about = XL.lora_state_dict(".", return_lora_metadata=True, unet_config=unet.config)
XL.load_lora_into_unet(state, alphas, unet, metadata=about)
added = {{"text_embeds": x["pooled"], "time_ids": x["time_ids"]}}
out["y"] = unet(x["z"], x["i"], x["text"], added_cond_kwargs=added).sample
"""
    torch.testing.assert_close(run_card(out, code, given, parts=[])["y"], want, **SAME)


def test_lora_on_a_bare_unet(tiny_pipelines, tmp_path):
    shutil.copytree(Path(tiny_pipelines("sd15")) / "unet", tmp_path / "bare")
    base = generator(tiny_pipelines("sd15"), tmp_path)
    settings = {"predicts": "noise", "path": base.backbone.config.path}
    settings["lora"] = LoraSettings(rank=3, alpha=6.0)
    network = SDUNetConfig(source=str(tmp_path / "bare"), text_length=TEXT_LENGTH, **settings)
    g = LatentGenerator(stir(network.build()), base.info, base.normalizer, base.autoencoder)
    out = export(g, tmp_path / "out", name="x")
    given, want = asked(g)
    code = "out['y'] = unet(x['z'], x['i'], x['text']).sample"
    torch.testing.assert_close(run_card(out, code, given, parts=[LORA])["y"], want, **SAME)
    assert (out / "vae").is_dir(), "there is no pipeline that would have it"


SAMPLE = """
scheduler.set_timesteps(4)
z = x['noise']
for i in scheduler.timesteps:
    z = scheduler.step(unet(z, i, x['text']).sample, i, z, eta=0.0).prev_sample
out['latents'] = z
"""


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_a_unet_trained_whole_with_its_scheduler(tiny_pipelines, tmp_path, kind):
    g = generator(tiny_pipelines(kind), tmp_path, adapt="full", channels_last=True)
    out = export(g, tmp_path / "out", name="whole")
    assert names(out) == ["README.md", "scheduler", "unet", "vae"]
    given, _ = asked(g)
    text = given["text"][:1].expand(2, -1, -1)
    given |= {"noise": torch.randn(2, *g.backbone.latent_shape), "text": text}
    with torch.no_grad():
        z, t, _ = inputs_for(g.backbone)
        want = g.backbone(z, t, {"text": text}).sample
    code = "out['y'] = unet(x['z'], x['i'], x['text']).sample" + SAMPLE
    made = run_card(out, code, given, parts=["unet/"])
    torch.testing.assert_close(made["y"], want, **SAME)
    ours = g.sample_latents(
        range(2), sampler=DdimConfig(steps=4, spacing="leading", offset=1, end="first"),
        guidance=NoGuidanceConfig(), condition={"text": text}, noise=given["noise"],
    )  # fmt: skip
    torch.testing.assert_close(made["latents"], g.normalizer.normalize(ours), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_a_whole_unet_is_a_source_again(tiny_pipelines, tmp_path, kind):
    g = generator(tiny_pipelines(kind), tmp_path, adapt="full")
    out = export(g, tmp_path / "out", name="whole")
    again = SDUNetConfig(source=str(out), adapt="none", text_length=TEXT_LENGTH).build()
    assert again.predicts == g.backbone.predicts and again.config.path == g.info.path
    z, t, condition = inputs_for(g.backbone)
    assert torch.equal(again(z, t, condition).sample, g.backbone(z, t, condition).sample)
    vae = KLAutoencoderConfig(source=str(out), subfolder="vae").build()
    g.info.pairing.check(vae)


def test_the_scheduler_is_of_the_path_it_was_trained_on(tiny_pipelines, tmp_path, caplog):
    """Not of the pipeline's; none where diffusers counts time in another way."""
    source = tiny_pipelines("sd15")
    other = VPPathConfig(schedule="linear", beta_start=0.00085, beta_end=0.012)
    out = export(generator(source, tmp_path, path=other), tmp_path / "a", name="x")
    given = {"none": torch.zeros(1)}
    made = run_card(out, "out['a'] = pipe.scheduler.alphas_cumprod", given, parts=[LORA])
    torch.testing.assert_close(made["a"], other.alphas_cumprod().float(), **SAME)
    for path in (LinearPathConfig(), VPPathConfig(timesteps=500)):
        out = export(generator(source, tmp_path, path=path), tmp_path / path.kind, name="x")
        assert names(out) == ["README.md", LORA]
        assert "DDIMScheduler" not in (out / "README.md").read_text()
        assert "no scheduler is written" in caplog.text
        caplog.clear()


def test_the_card(tiny_pipelines, tmp_path):
    g = generator(tiny_pipelines("sd15"), tmp_path, heads=UREPA)
    text = (export(g, tmp_path / "out", name="runs aligned") / "README.md").read_text()
    front = text.split("---\n")[1]
    value = yaml.safe_load(front)
    assert value == {
        "library_name": "diffusers",
        "tags": ["latentsmith", "stable-diffusion", "text-to-image", "lora"],
    }
    assert "# license: yours to state" in front and "license" not in value
    assert "\n# runs aligned\n" in text and "adapted by LoRA, of 2 classes" in text
    assert "| data | photos |" in text and "| samples | 128 |" in text
    assert "schedule scaled_linear, timesteps 1000" in text
    for digest in g.info.pairing.to_json().values():
        assert f"`{digest}`" in text
    assert "## Measurements" not in text and str(tmp_path / "vae") not in text


def test_timed_heads_are_named_with_what_reads_them(tiny_pipelines, tmp_path):
    g = generator(tiny_pipelines("sd15"), tmp_path, heads=UREPA | {"time_head": True})
    out = export(g, tmp_path / "out", name="x")
    assert HEADS not in blocks_of(out / "README.md")
    assert "These heads also take the time: `Aligner.load" in (out / "README.md").read_text()
    assert Aligner.load(out, g.backbone).config == g.aligner.config


def test_nothing_trained_is_nothing_to_export(tmp_path):
    source = tiny_sd(tmp_path / "pipeline")
    with pytest.raises(UserError, match=r"nothing of this generator was trained .*adapt=none"):
        export(generator(source, tmp_path, adapt="none"), tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()
    g = generator(source, tmp_path, adapt="none", heads={"blocks": ["mid"], "hidden": 4})
    out = export(g, tmp_path / "out", name="heads")
    assert names(out) == ["README.md", "alignment.json", "alignment.safetensors", "scheduler"]
