"""Everything that is trained, exported: loaded by its card's code where latentsmith cannot be
imported, it gives our numbers. (Generators from texts and U-Nets have files of their own.)

All exports are loaded in one process: starting one costs more than loading any of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.backbones import randomized
from helpers.exporting import Ask, blocks_of, run_cards
from helpers.fields import DECODER, field_autoencoder, field_config
from helpers.fields import points as some_points
from helpers.tiny_models import tiny_generator, tiny_semantic
from latentsmith.autoencoders.field.flow import FieldFlowConfig, FieldNoiseConfig
from latentsmith.autoencoders.field.model import load_field
from latentsmith.backbones.dit import DiTConfig
from latentsmith.backbones.mixers import MIXERS, Points
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.backbones.skip_mlp import SkipMLPConfig
from latentsmith.backbones.text_inverter import TextInverterConfig
from latentsmith.data.fields.coordinates import grid
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID
from latentsmith.data.text.tokens.wordpiece import WordPieceConfig
from latentsmith.data.text.tokens.words import WordsConfig
from latentsmith.diffusion.flow import GVPPathConfig, LinearPathConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.export.alone import FILES
from latentsmith.export.class_pipeline import PARTS
from latentsmith.export.folder import export
from latentsmith.export.saved import open_saved
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.samplers.heun import HeunConfig
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
from latentsmith.sampling.text_latent.translator import MadeBy, Translator
from latentsmith.sampling.text_latent.writing import invert

Wanted = dict[str, Tensor]
Case = Callable[[Path], tuple[Ask, Wanted]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(make: Case) -> Case:
        CASES[name] = make
        return make

    return add


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, tuple[Wanted, Wanted, Path]]:
    """What every export answers, what we do, and where it lies."""
    place = tmp_path_factory.mktemp("alone")
    asked, wanted = {}, {}
    for name, make in CASES.items():
        folder = place / name.replace(" ", "-")
        folder.mkdir()
        with torch.no_grad():
            asked[name], wanted[name] = make(folder)
    made = run_cards(place, asked)
    return {name: (made[name], wanted[name], asked[name].folder) for name in CASES}


def images(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


# Autoencoders -------------------------------------------------------------------------------------


def coder(autoencoder: Any, folder: Path, side: int) -> tuple[Ask, Wanted]:
    """Both directions, from and to normalized latents."""
    out = export(autoencoder, folder / "out", name="x", facts={"samples": 12})
    given = images(3, side)
    raw = autoencoder.encode(given).mode()
    z = autoencoder.require_normalizer().normalize(raw).float()
    code = "out['z'] = encode(x['images'])\nout['back'] = decode(out['z'])\n"
    return Ask(out, code, {"images": given}, [FILES]), {"z": z, "back": autoencoder.decode(raw)}


@case("kl")
def kl(folder):
    tiny_generator(folder / "source")
    return coder(open_saved(folder / "source" / "autoencoder"), folder, 16)


@case("semantic")
def of_semantic(folder):
    return coder(tiny_semantic(folder), folder, 24)


def field_coder(decoder: str, **settings: Any) -> Any:
    built = field_autoencoder(decoder, **settings).eval()
    built.measure_normalizer([images(6, 24)])
    return built


def of_field(decoder: str) -> Case:
    """Also from points to points."""

    def make(folder: Path) -> tuple[Ask, Wanted]:
        built = field_coder(decoder)
        ask, wanted = coder(built, folder, 24)
        where, values = some_points()
        more = (
            "out['tokens'] = vae.encode_points(x['where'], x['values'])\n"
            "out['values'] = vae.decode_at(out['tokens'], x['asked'])"
        )
        asked = grid(5, 2)
        given = {**ask.given, "where": where, "values": values, "asked": asked}
        tokens = built.encode_points(where, values)
        wanted |= {"tokens": tokens, "values": built.decode_at(tokens, asked)}
        return replace(ask, code=ask.code + more, given=given), wanted

    return make


CASES |= {f"field {decoder}": of_field(decoder) for decoder in DECODER}


# Generators of classes, or of nothing -------------------------------------------------------------


def class_generator(folder: Path, network: Any, path: Any, coded: Any) -> LatentGenerator:
    normalizer = coded.require_normalizer()
    digests = coded.encoder_digest(), coded.digest(), normalizer_digest(normalizer)
    classes = None if network.classes is None else list("abc")[: network.classes]
    pairing = Pairing(*digests, latents="store")
    info = GeneratorInfo(path, pairing, str(folder / "nowhere"), classes, {"samples": 1})
    return LatentGenerator(randomized(network).eval(), info, normalizer, coded)


def kl_coder(folder: Path) -> Any:
    tiny_generator(folder / "source")
    return open_saved(folder / "source" / "autoencoder")


def pictures(g: LatentGenerator, folder: Path, sampler: Any, scale: float) -> tuple[Ask, Wanted]:
    """Images from the same noise."""
    out = export(g, folder / "out", name="x")
    noise = starting_noise(0, range(3), g.backbone.latent_shape)
    told = g.info.classes is not None
    labels, guided = ("[2, 'a', 1], ", torch.tensor([2, 0, 1])) if told else ("", None)
    if not told:
        noise = noise[:1]
    code = (
        f"out['images'] = pipe({labels}num_inference_steps={sampler.steps}, "
        f"guidance_scale={scale}, latents=x['noise'], output_type='pt').images"
    )
    guidance = NoGuidanceConfig() if scale == 1 else CfgConfig(scale=scale)
    how = {"sampler": sampler, "guidance": guidance, "labels": guided}
    return Ask(out, code, {"noise": noise}, [PARTS]), {"images": g.sample(range(len(noise)), **how)}


@case("sit, classes, flow")
def of_sit(folder):
    g = LatentGenerator.load(tiny_generator(folder / "source"))
    return pictures(g, folder, EulerConfig(steps=3), 2.5)


@case("dit, learned variance, ddpm")
def of_dit(folder):
    sizes = {"size": None, "width": 8, "depth": 2, "heads": 2, "patch": 2}
    network = DiTConfig(**sizes, position="rope", mlp="swiglu", qk_norm=True).build((2, 4, 4), 3)
    g = class_generator(folder, network, VPPathConfig(), kl_coder(folder))
    leading = DdimConfig(steps=4, spacing="leading", offset=1, end="first")
    return pictures(g, folder, leading, 1.5)


@case("skip_mlp, cosine, of fields")
def of_skip_mlp(folder):
    network = SkipMLPConfig(width=12, depth=2, predicts="data").build((12, 2, 2), None)
    path = VPPathConfig(schedule="cosine")
    g = class_generator(folder, network, path, field_coder("cross"))
    leading = DdimConfig(steps=4, spacing="leading", offset=1, end="first")
    return pictures(g, folder, leading, 1)


@case("sit, gvp, the network alone")
def of_gvp(folder):
    g = LatentGenerator.load(tiny_generator(folder / "source"))
    g.info = replace(g.info, path=GVPPathConfig())
    out = export(g, folder / "out", name="x")
    assert PARTS not in blocks_of(out / "README.md"), "diffusers has no scheduler for this path"
    z, t = starting_noise(0, range(2), (2, 4, 4)), torch.tensor([0.2, 0.9])
    labels = torch.tensor([3, 1])
    code = "out['y'] = network(x['z'], x['t'], x['labels'])"
    given = {"z": z, "t": t, "labels": labels}
    want = g.backbone(z, t, {"label": labels}).sample
    return Ask(out, code, given, ["backbone/"]), {"y": want}


# Flows of fields ----------------------------------------------------------------------------------


def flow(told: str, decoder: str, **settings: Any) -> Any:
    from latentsmith.autoencoders.field.decoders import DECODERS

    config = FieldFlowConfig(
        told=told,
        decoder=DECODERS[decoder].config(depth=2, trunk=1, **DECODER[decoder]),
        mixer=MIXERS["s6"].config(curves=["rows", "columns"], alternate=False, state=4),
        noise=FieldNoiseConfig(features=8, band_limit=4.0),
        **settings,
    )
    return randomized(config.build(field_config("cross"))).eval()


@case("flow of values, told the code")
def of_coded_flow(folder):
    network = flow("code", "cross")
    out = export(network, folder / "out", name="x")
    rng = torch.Generator().manual_seed(2)
    code, asked = torch.randn(2, 12, 2, 2, generator=rng), grid(5, 2)
    weights = starting_noise(0, range(2), network.noise.shape)
    told, anchors = code.flatten(2).mT, Points(grid(2, 2)[None])
    want = network.draw(told, anchors, asked[None], HeunConfig(steps=3))
    ask = "out['y'] = flow.draw(x['code'], None, x['asked'], 3, weights=x['weights'])"
    return Ask(out, ask, {"code": code, "asked": asked, "weights": weights}, [FILES]), {"y": want}


@case("flow of values, told the inputs, squeezed")
def of_flow(folder):
    network = flow("inputs", "joint", bottleneck=4)
    out = export(network, folder / "out", name="x")
    where, values = some_points()
    weights = starting_noise(0, range(2), network.noise.shape)
    want = network.draw(values, Points(where), where[:, :7], EulerConfig(steps=3))
    ask = (
        "out['y'] = flow.draw(x['values'], x['where'], x['where'][:, :7], 3, heun=False, "
        "weights=x['weights'])"
    )
    given = {"values": values, "where": where, "weights": weights}
    return Ask(out, ask, given, [FILES]), {"y": want}


# Texts --------------------------------------------------------------------------------------------

TEXTS = ["a red circle above the blue square", "blue square", "an unknown word, too"]


def translator(tokens: Any, share: str = "streams") -> Translator:
    splitter = tokens.splitter()
    tokenizer = tokens.fit(splitter.split(TEXTS[:2] * 2), splitter)
    rng = torch.Generator().manual_seed(1)
    kind = "global" if share == "streams" else "pca_whiten"
    normalizer = VectorNormalizerConfig(kind=kind, unit=share == "streams").fit(
        torch.randn(40, 6, generator=rng) + 1
    )
    network = MMDiTConfig(
        size="smoke",
        width=24,
        heads=2,
        latent_tokens=3,
        share=share,
        linear=share == "none",
    )
    built = randomized(network.build(tokenizer.size, tokenizer.length, (1, normalizer.dim))).eval()
    if share == "none":  # else one word is the likeliest of every latent
        built.linear_paths()[1].bias.data.zero_()
    process = MaskedText(tokenizer.size, tokenizer.mask_id, eos=EOS_ID, pad=PAD_ID)
    model = TextLatentModel(built, process)
    return Translator(model, tokenizer, normalizer, MadeBy({"kind": "x"}), {"samples": 8})


def both_ways(made: Translator, folder: Path) -> tuple[Ask, Wanted]:
    """Latents of texts; and texts of latents, as token numbers of what was written."""
    saved = made.save(folder / "model")
    out = export(open_saved(saved), folder / "out", name="x")
    z = made.encode(TEXTS, draws=2)
    how = TextSamplerConfig(steps=4, temperature=0.7, guidance=1.5)
    written = [w.text for w in invert(made, z, how)]
    assert len(set(written)) > 1
    code = (
        f"out['z'] = model.encode({TEXTS!r}, draws=2)\n"
        "said = model.write(x['z'], 4, temperature=0.7, guidance=1.5)\n"
        "out['said'] = torch.tensor([list(t.encode().ljust(300)) for t in said])"
    )
    said = torch.tensor([list(t.encode().ljust(300)) for t in written])
    return Ask(out, code, {"z": z}, [FILES]), {"z": z, "said": said}


@case("texts and latents, words")
def of_words(folder):
    return both_ways(translator(WordsConfig(length=10, shortest=1)), folder)


@case("texts and latents, word pieces, two networks with linear paths")
def of_pieces(folder):
    return both_ways(translator(WordPieceConfig(length=12, shortest=1), "none"), folder)


def of_inverter(order: str) -> Case:
    def make(folder: Path) -> tuple[Ask, Wanted]:
        like = translator(WordsConfig(length=10, shortest=1))
        config = TextInverterConfig(order=order, width=16, depth=2, heads=2)  # pyright: ignore
        size = like.tokenizer.size
        network = randomized(config.build(size, 10, (1, 6)), spread=0.5).eval()
        out = export(network, folder / "out", name="x", like=like)
        raw = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
        ids = network.generate(like.normalized(raw), rng=torch.Generator().manual_seed(5))
        assert bool((ids != ids[0]).any())
        code = (
            "seeded = lambda: torch.Generator().manual_seed(5)\n"
            "out['ids'] = model.generate(x['raw'], seeded())\n"
            "said = model.write(x['raw'], seeded())\n"
            "out['said'] = torch.tensor([list(t.encode().ljust(300)) for t in said])"
        )
        said = torch.tensor([list(t.encode().ljust(300)) for t in like.tokenizer.decode(ids)])
        return Ask(out, code, {"raw": raw}, [FILES]), {"ids": ids, "said": said}

    return make


CASES |= {
    f"decoder of texts, {order}": of_inverter(order) for order in ("autoregressive", "one_shot")
}


# What they answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_process_without_latentsmith_gives_our_numbers(answers, name):
    made, wanted, _ = answers[name]
    assert made.keys() == wanted.keys()
    for key, want in wanted.items():
        assert want.float().std() > 1e-3, "nothing shows"
        if not want.is_floating_point():
            assert torch.equal(made[key], want)
        else:
            torch.testing.assert_close(made[key], want, rtol=1e-4, atol=1e-4)


def test_all_weights_are_safetensors_and_no_path_of_this_machine_is_told(answers, tmp_path_factory):
    root = str(tmp_path_factory.getbasetemp())
    for name, (_, _, folder) in answers.items():
        files = [f for f in folder.rglob("*") if f.is_file()]
        endings = {f.suffix for f in files}
        assert endings <= {".md", ".json", ".py", ".safetensors", ".txt"}, name
        told = [f.read_text() for f in files if f.suffix in (".md", ".py")]
        told += [f.read_text() for f in files if f.name in ("config.json", "model_index.json")]
        assert not any(root in text for text in told), name


def test_the_card_says_how_it_was_made_and_what_belongs_together(answers):
    text = (answers["field cross"][2] / "README.md").read_text()
    assert "| samples | 12 |" in text and "| latent channels | 12 |" in text
    assert "library_name: diffusers\n" in text and "- field-autoencoder\n" in text
    assert f"`{load_field(answers['field cross'][2]).encoder_digest()}`" in text


@pytest.mark.parametrize("name", ["kl", "field cross", "field scan"])
def test_autoencoders_are_read_here_again(answers, name):
    _, wanted, folder = answers[name]
    again: Any = open_saved(folder)
    with torch.no_grad():
        z = again.require_normalizer().normalize(
            again.encode(images(3, 24 if "f" in name else 16)).mode()
        )
    torch.testing.assert_close(z.float(), wanted["z"], rtol=1e-5, atol=1e-5)


@contextmanager
def refused(says: str, out: Path) -> Iterator[None]:
    with pytest.raises(UserError, match=says):
        yield
    assert not out.exists()


def test_what_no_export_has_is_refused_by_name(tmp_path):
    g = class_generator(tmp_path, SkipMLPConfig(width=8, depth=1).build((2, 4, 4), 2),
                        LinearPathConfig(), kl_coder(tmp_path))  # fmt: skip
    g.backbone.config = replace(g.backbone.config, kind="new")
    with refused(r"a new cannot be exported: known are sit, dit, skip_mlp", tmp_path / "out"):
        export(g, tmp_path / "out", name="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds nothing to export: it has none of generator"):
        open_saved(tmp_path / "empty")
    with pytest.raises(UserError, match="--autoencoder says where a generator's"):
        open_saved(tmp_path / "source" / "autoencoder", autoencoder=tmp_path)
