"""The saved generator: what it gives, what it belongs to, what it refuses."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.backbones.base import Backbone, BackboneOutput
from latentsmith.backbones.dit import SiTConfig
from latentsmith.backbones.export import WEIGHTS as BACKBONE_WEIGHTS
from latentsmith.diffusion.align import SETTINGS, WEIGHTS, Aligner, AlignmentConfig
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.guidance.autoguidance import AutoguidanceConfig
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.samplers.sde import SdeConfig
from latentsmith.stores.text_table import TextTable

CLASSES = ["shoe", "bag", "coat"]
HOW = {"sampler": EulerConfig(steps=3), "guidance": NoGuidanceConfig()}


def autoencoder(seed: int = 0) -> KLAutoencoder:
    config = KLAutoencoderConfig(
        in_channels=1, block_out_channels=[4, 8], layers_per_block=1, latent_channels=2,
        norm_num_groups=4, mid_block_add_attention=False, init_seed=seed,
    )  # fmt: skip
    found = config.build().eval()
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found.measure_normalizer([images])
    return found


@pytest.fixture(scope="module")
def decoder() -> KLAutoencoder:
    return autoencoder()


def info_for(ae: KLAutoencoder, classes: list[str] | None = CLASSES) -> GeneratorInfo:
    normalizer = ae.require_normalizer()
    pairing = Pairing(
        ae.encoder_digest(), ae.digest(), normalizer_digest(normalizer), latents="store"
    )
    return GeneratorInfo(LinearPathConfig(), pairing, "model", classes, {"samples": 10})


def lively(classes: int | None = 3, seed: int = 3) -> torch.nn.Module:
    """A backbone whose output is not the 0 of its start."""
    config = SiTConfig(size=None, width=8, depth=1, heads=2, patch=2)
    backbone = config.build((2, 4, 4), classes)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
    return backbone


@pytest.fixture
def generator(decoder) -> LatentGenerator:
    return LatentGenerator(lively(), info_for(decoder), decoder.require_normalizer(), decoder)


@pytest.mark.parametrize("sampler", [EulerConfig(steps=3), SdeConfig(steps=3)])
def test_samples_belong_to_their_index_not_to_their_batch(generator, sampler):
    how = {**HOW, "sampler": sampler, "seed": 5}
    whole = generator.sample_latents(range(10), batch_size=10, **how)
    parts = generator.sample_latents(range(10), batch_size=3, **how)
    assert torch.allclose(whole, parts, atol=1e-5)
    later = generator.sample_latents([7, 2], labels=torch.tensor([7 % 3, 2]), **how)
    assert torch.allclose(later, whole[[7, 2]], atol=1e-5)
    assert not torch.allclose(whole, generator.sample_latents(range(10), **{**how, "seed": 6}))


def test_given_noise_is_the_start_of_its_own_sample(generator):
    noise = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    whole = generator.sample_latents(range(5), noise=noise, batch_size=5, **HOW)
    parts = generator.sample_latents(range(5), noise=noise, batch_size=2, **HOW)
    assert torch.allclose(whole, parts, atol=1e-5)
    moved = generator.sample_latents([0, 4, 2, 3, 1], noise=noise, **HOW)
    assert torch.allclose(moved[[0, 2, 3]], whole[[0, 2, 3]], atol=1e-5), (
        "labels aside, noise alone"
    )


@pytest.mark.parametrize("mode", [True, False])
def test_sampling_leaves_the_backbone_in_its_mode(generator, mode):
    seen = []
    generator.backbone.train(mode)
    hook = generator.backbone.register_forward_pre_hook(lambda m, _: seen.append(m.training))
    generator.sample_latents(range(2), **HOW)
    hook.remove()
    assert generator.backbone.training is mode and seen and not any(seen)


def test_labels_count_through_the_classes_and_matter(generator):
    usual = generator.sample_latents(range(6), **HOW)
    named = generator.sample_latents(range(6), labels=torch.tensor([0, 1, 2, 0, 1, 2]), **HOW)
    assert torch.equal(usual, named)
    other = generator.sample_latents(range(6), labels=torch.zeros(6), **HOW)
    assert torch.equal(other[0], usual[0]) and not torch.allclose(other[1], usual[1])


def test_guidance_reaches_the_sampler(generator):
    guided = {**HOW, "guidance": CfgConfig(scale=4.0)}
    usual = generator.sample_latents([0, 1], **HOW)
    assert not torch.allclose(generator.sample_latents([0, 1], **guided), usual, atol=1e-3)


def test_a_weak_generator_takes_part_in_every_batch(generator):
    weak = Denoiser(lively(seed=4), generator.path)
    guided = {**HOW, "guidance": AutoguidanceConfig(scale=2.0)}
    usual, own = generator.sample_latents(range(2), **HOW), Denoiser(lively(), generator.path)
    same = generator.sample_latents(range(2), weak=own, **guided)
    assert torch.allclose(same, usual, atol=1e-4), "of its own equal there is nothing to leave"
    other = generator.sample_latents(range(2), weak=weak, **guided)
    assert not torch.allclose(other, usual, atol=1e-2)


def test_a_store_of_another_encoder_is_refused(decoder):
    made_by = decoder.require_normalizer().encoder_digest

    def store(weights: str) -> SimpleNamespace:
        manifest = SimpleNamespace(encoder={"weights": weights}, fingerprint=lambda: "print")
        return SimpleNamespace(path="place", manifest=manifest)

    assert Pairing.of(decoder, store(made_by)) == replace(
        info_for(decoder).pairing, latents="print"
    )
    with pytest.raises(UserError, match=f"another encoder .abc. than that of .*{made_by[:12]}"):
        Pairing.of(decoder, store("abc"))


def test_latents_are_raw_and_images_are_decoded_from_them(generator, decoder):
    latents = generator.sample_latents(range(4), **HOW)
    images = generator.sample(range(4), **HOW)
    assert images.shape == (4, 1, 8, 8) and images.min() >= 0 and images.max() <= 1
    with torch.no_grad():
        assert torch.allclose(decoder.decode(latents).clamp(0, 1), images, atol=1e-6)
    # one Euler step from noise with a zero velocity would leave normalized noise: denormalized,
    # its deviation is the normalizer's
    still = LatentGenerator(lively(), generator.info, generator.normalizer, decoder)
    with torch.no_grad():
        for p in still.backbone.parameters():
            p.zero_()
    left = still.sample_latents(range(512), **HOW, labels=torch.zeros(512))
    assert torch.allclose(left.std((0, 2, 3)), generator.normalizer.std.float(), rtol=0.05)


def test_saved_and_loaded_gives_the_same(generator, decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "model")
    moved = replace(generator.info, autoencoder=str(tmp_path / "model"))
    LatentGenerator(generator.backbone, moved, generator.normalizer, decoder).save(tmp_path / "g")
    loaded = LatentGenerator.load(tmp_path / "g")
    assert torch.allclose(loaded.sample(range(4), **HOW), generator.sample(range(4), **HOW))
    assert loaded.info == moved


def test_moved_together_the_autoencoder_is_found_beside(generator, decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "old" / "arm" / "model")
    info = replace(generator.info, autoencoder=str(tmp_path / "old" / "arm" / "model"))
    generator = LatentGenerator(generator.backbone, info, generator.normalizer, decoder)
    generator.save(tmp_path / "old" / "training" / "g")
    (tmp_path / "old").rename(tmp_path / "new")
    loaded = LatentGenerator.load(tmp_path / "new" / "training" / "g")
    assert loaded.info.autoencoder == str(tmp_path / "new" / "arm" / "model")
    shutil.copytree(tmp_path / "new" / "training" / "g", tmp_path / "alone")
    with pytest.raises(UserError, match=r"is not at .*old.arm.model: give the folder"):
        LatentGenerator.load(tmp_path / "alone")
    (tmp_path / "new").rename(tmp_path / "old")
    assert LatentGenerator.load(tmp_path / "alone").autoencoder is not None, "it stayed"


def test_another_normalizer_beside_the_generator_is_refused(generator, decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "model")
    info = replace(generator.info, autoencoder=str(tmp_path / "model"))
    LatentGenerator(generator.backbone, info, generator.normalizer, decoder).save(tmp_path / "g")
    replace(generator.normalizer, mean=generator.normalizer.mean + 1).save(tmp_path / "g")
    with pytest.raises(UserError, match="scaled by normalizer"):
        LatentGenerator.load(tmp_path / "g")


def test_the_wrong_decoder_is_refused_naming_both(generator, tmp_path):
    other = autoencoder(seed=9)
    with pytest.raises(UserError) as refused:
        LatentGenerator(generator.backbone, generator.info, generator.normalizer, other)
    text = str(refused.value)
    assert other.digest()[:12] in text and generator.info.pairing.autoencoder[:12] in text
    generator.save(tmp_path / "g")
    with pytest.raises(UserError, match="is not the autoencoder of"):
        LatentGenerator.load(tmp_path / "g", autoencoder=other)


def test_a_decoder_trained_on_or_a_new_normalizer_is_another(generator, decoder):
    trained = autoencoder()
    with torch.no_grad():
        trained.decoder_parameters()[0].add_(1e-3)
    with pytest.raises(UserError, match="its autoencoder is"):
        generator.info.pairing.check(trained)
    rescaled = autoencoder()
    rescaled.normalizer = replace(rescaled.require_normalizer(), std=decoder.normalizer.std * 2)
    with pytest.raises(UserError, match="its normalizer is"):
        generator.info.pairing.check(rescaled)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 3], "0…2"), ([-1, 0], "0…2"), ([0], "1 labels for 2 samples")],
)
def test_labels_that_do_not_fit(generator, labels, message):
    with pytest.raises(UserError, match=message):
        generator.sample_latents([0, 1], labels=torch.tensor(labels), **HOW)


def test_an_unconditional_generator_takes_no_labels(decoder):
    plain = LatentGenerator(
        lively(None), info_for(decoder, None), decoder.require_normalizer(), decoder
    )
    assert plain.sample([0, 1], **HOW).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="without classes"):
        plain.sample([0], labels=torch.tensor([0]), **HOW)


def test_damage_and_absence_are_sentences(generator, tmp_path):
    with pytest.raises(UserError, match=r"holds no generator: it has no generator.json"):
        LatentGenerator.load(tmp_path)
    generator.save(tmp_path / "g")
    file = tmp_path / "g" / "generator.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "path": {"kind": "liner"}}))
    with pytest.raises(UserError, match=r"no path 'liner'. Did you mean 'linear'"):
        LatentGenerator.load(tmp_path / "g")
    file.write_text(file.read_text()[:20])
    with pytest.raises(UserError, match="is damaged"):
        LatentGenerator.load(tmp_path / "g")


class Told(Backbone):
    """A "text"-conditional network that puts out its text's first number."""

    predicts, latent_shape, takes = "velocity", (2, 4, 4), ("text",)

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, z, t, condition, *, taps=()):
        text = condition["text"].float()
        return BackboneOutput(z * 0 + self.one * text[:, 0, 0].view(-1, 1, 1, 1))


def test_labels_are_told_as_texts_and_prompts_go_beside_them(decoder):
    table = TextTable(torch.tensor([[[1.0]], [[5.0]], [[0.0]]]), torch.tensor([0, 1, 0]))
    g = LatentGenerator(Told(), info_for(decoder), decoder.require_normalizer(), decoder, table)
    start = g.normalizer.denormalize(starting_noise(0, range(3), (2, 4, 4)))
    made = g.sample_latents(range(3), **HOW)
    std = g.normalizer.std.float().view(1, -1, 1, 1)
    torch.testing.assert_close(
        ((start - made) / std).mean((1, 2, 3)), torch.tensor([1.0, 5.0, 1.0]), atol=1e-4, rtol=1e-4
    )
    prompts = {"text": torch.tensor([[[2.0]], [[3.0]], [[4.0]]])}
    free = g.sample_latents(range(3), condition=prompts, batch_size=2, **HOW)
    torch.testing.assert_close(
        ((start - free) / std).mean((1, 2, 3)), torch.tensor([2.0, 3.0, 4.0]), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(UserError, match="labels and a condition"):
        g.sample_latents([0], labels=torch.tensor([0]), condition=prompts, **HOW)


def test_texts_are_saved_with_the_generator(decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "model")
    table = TextTable(torch.ones(4, 1, 1), torch.tensor([0, 1, 2]))
    info = replace(info_for(decoder), autoencoder=str(tmp_path / "model"))
    g = LatentGenerator(lively(), info, decoder.require_normalizer(), decoder, table)
    loaded = LatentGenerator.load(g.save(tmp_path / "generator"))
    assert loaded.texts is not None and torch.equal(loaded.texts.embedding, table.embedding)


def test_alignment_heads_are_saved_beside_the_network(decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "model")
    info = replace(info_for(decoder), autoencoder=str(tmp_path / "model"))
    backbone, normalizer = lively(), decoder.require_normalizer()
    aligner = Aligner(AlignmentConfig(blocks=[1], hidden=4), backbone, teacher_dim=5)
    g = LatentGenerator(backbone, info, normalizer, decoder, aligner=aligner)
    folder = g.save(tmp_path / "generator")
    assert not any("heads" in name for name in load_file(folder / "backbone" / BACKBONE_WEIGHTS))
    loaded = LatentGenerator.load(folder)
    assert loaded.aligner is not None and loaded.aligner.config == aligner.config
    state = loaded.aligner.state_dict()
    assert all(torch.equal(state[name], value) for name, value in aligner.state_dict().items())
    assert torch.equal(loaded.sample(range(2), **HOW), g.sample(range(2), **HOW))
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"no alignment heads: it has no {WEIGHTS}"):
        LatentGenerator.load(folder)
    (folder / SETTINGS).unlink()  # as folders were before heads were kept
    assert LatentGenerator.load(folder).aligner is None
    LatentGenerator(backbone, info, normalizer, decoder).save(folder)
    assert not (folder / SETTINGS).exists()
