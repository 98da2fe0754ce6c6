"""Exported pipelines: diffusers loads them where latentsmith cannot be imported, and they make our
images."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.exporting import blocks_of, run_card
from helpers.tiny_models import tiny_clip_text, tiny_dinov2, tiny_t5, tiny_tokenizer
from helpers.tiny_text_generator import lively, tiny_text_generator
from latentsmith.autoencoders.pixel_decoder import PixelDecoderConfig
from latentsmith.autoencoders.projectors.mlp import MLPConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoderConfig
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.diffusion.flow import GVPPathConfig, LinearPathConfig
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.encoders.text.minilm import MiniLMConfig
from latentsmith.encoders.text.t5 import T5Config
from latentsmith.errors import UserError
from latentsmith.export.folder import export
from latentsmith.export.pipeline import PIPELINE_PARTS, Sampling
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.content import Report
from latentsmith.sampling.edit import edit
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.edit import EditGuidanceConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.prompts import described
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.euler import EulerConfig

NEAR = {"rtol": 0, "atol": 1e-4}
PROMPTS = ["a red cat", "the small green house of the dog"]
CHANGES = ["large", "a blue dog"]


def tiny_bert(folder: Path) -> str:
    """Save a one-layer BERT of width 16 with a word tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=32, **shape, **layers)).save_pretrained(folder)
    tiny_tokenizer(folder, begin="[BOS]", length=64)
    return str(folder)


TEXTS = {
    "clip_text": lambda d: ClipTextConfig(source=tiny_clip_text(d)),
    "minilm": lambda d: MiniLMConfig(source=tiny_bert(d), length=9, output="sequence"),
    "t5": lambda d: T5Config(source=tiny_t5(d), length=10),
}


def generator(folder, *, path=None, texts="clip_text", edits=True, **settings) -> LatentGenerator:
    """On latents [6, 3, 3] of a DINOv2, of images of 24 x 24."""
    encoder = DinoV2Config(source=tiny_dinov2(folder / "dino"), resolution=42)
    decoder = PixelDecoderConfig(width=8, levels=[8, 8, 4], blocks=1, groups=4)
    projector = MLPConfig(widths=(12, 10), blocks=1)
    autoencoder = SemanticAutoencoderConfig(
        encoder=encoder, projector=projector, latent_channels=6, decoder=decoder
    ).build()
    images = torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    autoencoder.measure_features([images])
    normalizer = autoencoder.measure_normalizer([images])
    digests = autoencoder.encoder_digest(), autoencoder.digest(), normalizer_digest(normalizer)
    config = TEXTS[texts](folder / "text")
    reader = config.build()
    shape = {"size": None, "width": 16, "depth": 2, "heads": 2}
    told = {"text_width": reader.width, "text_length": reader.length}
    network = lively(TextDiTConfig(**(shape | told | settings)).build((6, 3, 3)))
    empty = reader([""])
    network.set_null(empty.sequence[0], empty.mask[0])
    info = GeneratorInfo(
        path or LinearPathConfig(), Pairing(*digests, latents="store"), "nowhere", None,
        {"samples": 128, "edits": edits}, described(config, reader.fingerprint()),
    )  # fmt: skip
    return LatentGenerator(network.eval(), info, normalizer, autoencoder.eval())


def loaded(out: Path):
    """The pipeline in this process, of the classes that were shipped."""
    from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler
    from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

    from latentsmith.export.shipped.modeling_semantic import SemanticAutoencoderModel
    from latentsmith.export.shipped.modeling_text_dit import TextDiTModel
    from latentsmith.export.shipped.pipeline import TextDiTPipeline

    index = json.loads((out / "model_index.json").read_text())
    classes = {c.__name__: c for c in (
        TextDiTModel, SemanticAutoencoderModel, AutoencoderKL, DDIMScheduler,
        FlowMatchEulerDiscreteScheduler, CLIPTextModelWithProjection, T5EncoderModel,
    )} | {"BertModel": AutoModel}  # fmt: skip
    parts, plain = {}, {}
    for name, value in index.items():
        if isinstance(value, list) and name != "_class_name":
            kind = AutoTokenizer if name == "tokenizer" else classes[value[1]]
            parts[name] = kind.from_pretrained(out / name)
        elif not name.startswith("_"):
            plain[name] = value
    pipe = TextDiTPipeline(**parts, **plain)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(g):
    return starting_noise(0, range(2), g.backbone.latent_shape)


def ours(g, sampler, scale=3.0):
    """Images of the prompts from `noise`."""
    guidance = NoGuidanceConfig() if scale == 1 else CfgConfig(scale=scale)
    how = {"sampler": sampler, "guidance": guidance}
    return g.sample(range(2), condition=g.prompt(PROMPTS), **how)


EULER = EulerConfig(steps=4)
ASK = f"""
images = pipe({PROMPTS!r}, num_inference_steps=4, guidance_scale=3.0, latents=x["noise"],
              output_type="pt").images
out["images"] = images
out["edited"] = pipe({CHANGES!r}, image=x["source"], num_inference_steps=4, guidance_scale=3.0,
                      image_guidance_scale=1.7, latents=x["noise"], output_type="pt").images
"""


def both(g, sampler):
    """(what is asked, the images and the edited images that we make)."""
    side = g.resolution
    source = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(5))
    how = {"sampler": sampler, "guidance": EditGuidanceConfig(text=3.0, image=1.7)}
    wanted = {"images": ours(g, sampler), "edited": edit(g, source, CHANGES, **how)}
    assert all(float((w[0] - w[1]).abs().mean()) > 0.02 for w in wanted.values())
    return {"noise": noise(g), "source": source}, wanted


# Where latentsmith is not ------------------------------------------------------------------------


def test_a_process_without_latentsmith_makes_our_images(tmp_path):
    """The card's own code loads it."""
    g = generator(tmp_path, texts="minilm", position="both", qk_norm=True, mlp="swiglu")
    out = export(g, tmp_path / "out", name="tiny", sampling=Sampling(steps=2))
    given, wanted = both(g, EULER)
    card = "assert images[0].size == edited[0].size == (24, 24)\n"
    # diffusers runs an export's files anew for every pipeline: the first must go on working
    card += "again = DiffusionPipeline.from_pretrained('.', trust_remote_code=True)\n"
    made = run_card(out, card + ASK, given, parts=[PIPELINE_PARTS])
    for name, want in wanted.items():
        torch.testing.assert_close(made[name], want, **NEAR)


def test_of_a_ddpm_with_a_kl_autoencoder(tmp_path):
    g = tiny_text_generator(tmp_path)
    g.info = replace(g.info, path=VPPathConfig())
    g.path, g.backbone.predicts = g.info.path.build(), "noise"
    g.backbone.config = replace(g.backbone.config, predicts="noise")
    out = export(g, tmp_path / "out", name="tiny", sampling=Sampling(steps=2))
    index = json.loads((out / "model_index.json").read_text())
    assert index["autoencoder"] == ["diffusers", "AutoencoderKL"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    leading = DdimConfig(steps=4, spacing="leading", offset=1, end="first")
    given, wanted = both(g, leading)
    made = run_card(out, ASK, given, parts=[PIPELINE_PARTS])
    for name, want in wanted.items():
        torch.testing.assert_close(made[name], want, **NEAR)


# What is written ----------------------------------------------------------------------------------


def test_everything_is_safetensors_and_says_what_it_is(tmp_path):
    out = export(generator(tmp_path), tmp_path / "out", name="tiny")
    assert sorted(f.name for f in out.iterdir()) == [
        "README.md", "autoencoder", "model_index.json", "pipeline.py", "scheduler", "text_encoder",
        "tokenizer", "transformer",
    ]  # fmt: skip
    endings = {f.suffix for f in out.rglob("*") if f.is_file()}
    assert endings == {".md", ".json", ".py", ".safetensors"}
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "TextDiTPipeline"]
    for name in ("transformer", "autoencoder"):
        module, kind = index[name]
        assert (out / name / f"{module}.py").is_file()
        assert json.loads((out / name / "config.json").read_text())["_class_name"] == kind
        assert (out / name / "diffusion_pytorch_model.safetensors").is_file()
    text = "".join(f.read_text() for f in out.rglob("*.json"))
    assert str(tmp_path) not in text, "a path of this machine"


def test_the_card_has_protocol_numbers_and_settings(tmp_path):
    stamp = Stamp("shapes/val", 64, seed=3, sampler="euler", steps=4, detail={"guidance": "cfg"})
    numbers = [
        Measurement("fd_x", 12.5, replace(stamp, space="x"), (11.0, 14.0), False),
        Measurement("psnr", 20.25, Stamp("shapes/val", 64, seed=3), None, True, "dB"),
    ]
    report = Report("x", measurements={"PS-VAE": numbers})
    how = Sampling(steps=7, text=2.5, edit_text=4.0, edit_image=1.25)
    g = generator(tmp_path)
    out = export(g, tmp_path / "out", name="tiny", report=report, sampling=how)
    text = (out / "README.md").read_text()
    assert "library_name: diffusers\n" in text and "- text-to-image\n" in text
    assert "| the network says | velocity |" in text and "| samples | 128 |" in text
    assert "| autoencoder | `autoencoder/`, here |" in text
    assert "12.50 [11.00, 14.00]" in text and "20.25 dB" in text
    protocol = "features of x, sampler euler, 4 steps, guidance cfg, seed 3: "
    assert f"- 64 samples of `shapes/val`, {protocol}" in text
    assert "- 64 samples of `shapes/val`, seed 3: PSNR" in text
    code = blocks_of(out / "README.md")[PIPELINE_PARTS]
    assert "num_inference_steps=7, guidance_scale=2.5)" in code
    assert "guidance_scale=4, image_guidance_scale=1.25)" in code


def test_sampling_as_a_run_says():
    sampler = EulerConfig(steps=9, shift=2.0)
    how = Sampling.of(sampler, CfgConfig(scale=4.0), EditGuidanceConfig(text=5.0, image=1.2))
    assert how == Sampling(9, 2.0, 4.0, 5.0, 1.2)
    plain = Sampling.of(sampler, NoGuidanceConfig(), NoGuidanceConfig())
    assert (plain.text, plain.edit_text, plain.edit_image) == (1.0, 1.0, 1.0)


# In this process: every path, text encoder and argument -------------------------------------------


@pytest.mark.parametrize("texts", TEXTS)
def test_every_text_encoder_reads_as_ours(tmp_path, texts, caplog):
    g = generator(tmp_path, texts=texts)
    pipe = loaded(export(g, tmp_path / "out", name="x"))
    told = [*PROMPTS, "", "a " * 40]
    want = g.prompt(told)
    text, mask = pipe.encode_prompt(told)
    torch.testing.assert_close(text, want["text"], rtol=1e-5, atol=1e-5)
    assert torch.equal(mask, want["mask"])
    images = pipe(PROMPTS, num_inference_steps=4, guidance_scale=3.0, latents=noise(g),
                  output_type="pt").images  # fmt: skip
    torch.testing.assert_close(images, ours(g, EULER), **NEAR)


@pytest.mark.parametrize(
    ("path", "predicts", "sampler"),
    [
        (LinearPathConfig(), "velocity", EulerConfig(steps=5, shift=3.0)),
        (
            VPPathConfig(schedule="scaled_linear"),
            "data",
            DdimConfig(steps=4, spacing="leading", offset=1, end="first"),
        ),
        (
            VPPathConfig(schedule="cosine"),
            "data",
            DdimConfig(steps=4, spacing="leading", offset=1, end="first"),
        ),
        (
            VPPathConfig(zero_terminal_snr=True),
            "v",
            DdimConfig(steps=5, spacing="trailing", end="first"),
        ),
    ],
    ids=["shifted flow", "scaled linear, data", "cosine", "zero terminal SNR, v"],
)
@pytest.mark.parametrize("scale", [1, 3.0])
def test_every_path_has_its_scheduler(tmp_path, path, predicts, sampler, scale):
    g = generator(tmp_path, path=path, predicts=predicts)
    sampling = Sampling(shift=sampler.shift)
    pipe = loaded(export(g, tmp_path / "out", name="x", sampling=sampling))
    images = pipe(PROMPTS, num_inference_steps=sampler.steps, guidance_scale=scale,
                  latents=noise(g), output_type="pt").images  # fmt: skip
    torch.testing.assert_close(images, ours(g, sampler, scale), **NEAR)


@pytest.mark.parametrize(("text", "image"), [(1, 1), (3, 1), (1, 3), (2, 2), (0, 1.5), (3, 0)])
def test_every_weighing_of_text_and_image(tmp_path, text, image):
    g = generator(tmp_path)
    source = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    guidance = EditGuidanceConfig(text=text, image=image)
    want = edit(g, source, CHANGES, sampler=EULER, guidance=guidance)
    pipe = loaded(export(g, tmp_path / "out", name="x"))
    got = pipe(CHANGES, image=source, num_inference_steps=4, guidance_scale=text,
               image_guidance_scale=image, latents=noise(g), output_type="pt").images  # fmt: skip
    torch.testing.assert_close(got, want, **NEAR)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipe")
    return loaded(export(generator(folder), folder / "out", name="x"))


def test_numbers_of_prompts_images_and_repeats(pipe):
    how = {"num_inference_steps": 2, "output_type": "pt"}
    z = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    twice = pipe(PROMPTS, num_images_per_prompt=2, latents=z, **how).images
    apart = pipe([PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, latents=z, **how).images
    torch.testing.assert_close(twice, apart, **NEAR)
    pictures = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    for prompt, image in (("large", pictures), (["large"] * 3, pictures[:1])):
        got = pipe(prompt, image=image, latents=z[:3], **how).images
        want = pipe(["large"] * 3, image=image.expand(3, -1, -1, -1), latents=z[:3], **how).images
        torch.testing.assert_close(got, want, **NEAR)


def test_kinds_of_input_and_output(pipe):
    how = {"num_inference_steps": 2, "guidance_scale": 2.0}
    made = {
        kind: pipe("a cat", generator=torch.Generator().manual_seed(4), output_type=kind, **how)
        for kind in ("pil", "pt", "np", "latent")
    }
    tensor = made["pt"].images
    assert tensor.shape == (1, 3, 24, 24) and made["latent"].images.shape == (1, 6, 3, 3)
    assert made["np"].images.shape == (1, 24, 24, 3)
    picture = made["pil"].images[0]
    assert isinstance(picture, Image.Image) and picture.size == (24, 24)
    z = torch.zeros(1, 6, 3, 3)
    pixels = (tensor * 255).round() / 255
    kinds = {"tensor": pixels, "picture": picture, "list": [picture]}
    edited = {
        k: pipe("large", image=v, latents=z, output_type="pt", return_dict=False, **how)[0]
        for k, v in kinds.items()
    }
    for one in edited.values():
        torch.testing.assert_close(one, edited["tensor"], **NEAR)
    larger = pipe("large", image=picture.resize((50, 40)), latents=z, **how).images[0]
    assert larger.size == (24, 24)


def test_half_precision_comes_near(pipe):
    how = {"num_inference_steps": 4, "output_type": "pt", "latents": torch.ones(1, 6, 3, 3)}
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    want = pipe("a cat", image=image, **how).images
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    got = half("a cat", image=image, **how).images
    assert got.dtype == torch.float32
    assert float((got - want).abs().mean()) < 0.05 < 0.1 < float(want.std())


def test_wrong_arguments_get_a_sentence(pipe):
    three = torch.rand(3, 3, 24, 24)
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        pipe(PROMPTS, image=three)
    with pytest.raises(ValueError, match=r"images are \[3, 3, 12, 12\], and \[N, 3, 24, 24\]"):
        pipe("x", image=three[..., :12, :12])
    with pytest.raises(ValueError, match="values outside"):
        pipe("x", image=three * 2 - 1)
    with pytest.raises(ValueError, match=r"latents are \[1, 6, 3, 3\], and \[2, 6, 3, 3\]"):
        pipe(PROMPTS, latents=torch.zeros(1, 6, 3, 3))


def test_one_that_was_not_trained_on_edits_says_so(tmp_path):
    out = export(generator(tmp_path, edits=False), tmp_path / "out", name="x")
    assert "image=" not in blocks_of(out / "README.md")[PIPELINE_PARTS]
    with pytest.raises(ValueError, match="not trained to change images"):
        loaded(out)("x", image=torch.rand(1, 3, 24, 24))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": GVPPathConfig()}, r"path=gvp cannot be exported .*path=linear and path=vp"),
        ({"predicts": "data"}, r"backbone.predicts=data on path=linear .*takes velocity"),
        ({"path": VPPathConfig()}, r"predicts=velocity on path=vp .*take noise, data, v"),
    ],
    ids=str,
)
def test_what_diffusers_has_no_scheduler_for(tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        export(generator(tmp_path, **settings), tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_read_and_no_empty_prompt(tmp_path):
    g = generator(tmp_path)
    kept = g.info.text_encoder
    g.info = replace(g.info, text_encoder=None)
    with pytest.raises(UserError, match="does not say by which text encoder"):
        export(g, tmp_path / "out", name="x")
    other = {"settings": {"kind": "sdxl_text"}, "fingerprint": {}}
    g.info = replace(g.info, text_encoder=other)
    with pytest.raises(UserError, match=r"text_encoder=sdxl_text cannot be .*minilm, t5, clip"):
        export(g, tmp_path / "out", name="x")
    g.info = replace(g.info, text_encoder=kept)
    g.backbone.conditions.null_text.fill_(torch.nan)
    g.backbone.conditions._told = False
    with pytest.raises(UserError, match="knows no empty prompt"):
        export(g, tmp_path / "out", name="x")


def test_a_semantic_autoencoder_without_text_dit_is_refused(tmp_path):
    from latentsmith.backbones.dit import SiTConfig

    g = generator(tmp_path)
    g.backbone = SiTConfig(size=None, width=8, depth=1, heads=2, patch=1).build((6, 3, 3), 2)
    with pytest.raises(UserError, match=r"goes into the pipeline of a text_dit, and this is a sit"):
        export(g, tmp_path / "out", name="x")
