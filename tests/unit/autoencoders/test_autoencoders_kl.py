"""The AutoencoderKL wrapper: ranges, saving, staleness, freezing, errors."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.errors import UserError

TINY = {
    "in_channels": 1,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 4,
}


def tiny(**settings) -> KLAutoencoder:
    return KLAutoencoderConfig(**(TINY | settings)).build()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_model_sees_minus_one_to_one_and_images_come_back_in_zero_one(images):
    autoencoder = tiny()
    seen = []
    autoencoder.model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    posterior = autoencoder.encode(images)
    torch.testing.assert_close(seen[0], images * 2 - 1)
    decoded = autoencoder.decode(posterior.mode())
    raw = autoencoder.model.decode(posterior.mode()).sample
    torch.testing.assert_close(decoded, raw / 2 + 0.5)
    assert decoded.shape == images.shape


@torch.no_grad()
def test_posterior_is_diffusers_own(images):
    autoencoder = tiny()
    posterior = autoencoder.encode(images)
    theirs = autoencoder.model.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(posterior.mode(), theirs.mode())
    torch.testing.assert_close(posterior.logvar, theirs.logvar)
    ours = posterior.sample(torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, theirs.sample(torch.Generator().manual_seed(3)))
    torch.testing.assert_close(posterior.kl("sum"), theirs.kl().mean())
    elements = posterior.mean[0].numel()
    torch.testing.assert_close(posterior.kl("mean"), theirs.kl().mean() / elements)


@torch.no_grad()
def test_sampling_without_a_generator_works(images):
    posterior = tiny().encode(images)
    assert not torch.equal(posterior.sample(), posterior.sample())


def test_shapes():
    autoencoder = tiny(block_out_channels=[8, 16, 16])
    assert autoencoder.factor == 4
    assert autoencoder.latent_shape(32) == (3, 8, 8)
    with pytest.raises(UserError, match=r"resolution 30 does not suit .* use 28 or 32"):
        autoencoder.latent_shape(30)
    with pytest.raises(UserError, match="resolution 30"):
        autoencoder.encode(torch.rand(1, 1, 32, 30))
    with pytest.raises(UserError, match=r"3 channel.*the autoencoder takes 1.*channels to 1"):
        autoencoder.encode(torch.rand(1, 3, 32, 32))


def test_initial_weights_follow_init_seed_alone():
    first = tiny().digest()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert tiny().digest() == first
    assert torch.equal(torch.get_rng_state(), state), "building must not move the global stream"
    assert tiny(init_seed=1).digest() != first


def test_saved_folder_loads_in_diffusers_and_here(tmp_path, images):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    autoencoder = tiny()
    normalizer = autoencoder.measure_normalizer(images.split(4))
    autoencoder.save_pretrained(tmp_path / "model")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "model")
    x = images * 2 - 1
    with torch.no_grad():
        want = autoencoder.encode(images).mode()
        torch.testing.assert_close(theirs.encode(x).latent_dist.mode(), want)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["scaling_factor"] == pytest.approx(1 / float(want.double().std(unbiased=False)))
    assert config["latents_mean"] == pytest.approx(normalizer.mean.tolist())
    ours = KLAutoencoderConfig(source=str(tmp_path / "model")).build()
    assert ours.digest() == autoencoder.digest()
    assert torch.equal(ours.normalizer.mean, normalizer.mean)
    channels = ours.normalizer.normalize(want).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.std(1, unbiased=False), torch.ones(3), rtol=1e-4, atol=0)
    ours.save_pretrained(tmp_path / "model")  # over the old one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_subfolder_of_a_pipeline(tmp_path, images):
    autoencoder = tiny()
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = KLAutoencoderConfig(source=str(tmp_path), subfolder="vae").build()
    assert loaded.digest() == autoencoder.digest()
    assert loaded.normalizer is not None


def test_measuring_restores_training_mode_and_needs_no_graph(images):
    autoencoder = tiny().train()
    autoencoder.measure_normalizer([images], latent="sample")
    assert autoencoder.training
    posterior = autoencoder.encode(images)
    spread = posterior.mean.detach().double().var((0, 2, 3), unbiased=False)
    noise = posterior.logvar.detach().double().exp().mean((0, 2, 3))
    torch.testing.assert_close(
        autoencoder.normalizer.std, (spread + noise).sqrt(), rtol=1e-4, atol=0
    )
    assert autoencoder.normalizer.latent == "sample"


def test_saving_without_or_with_stale_statistics_is_refused(tmp_path, images):
    autoencoder = tiny()
    with pytest.raises(UserError, match=r"have not been measured: run measure_normalizer\(\)"):
        autoencoder.save_pretrained(tmp_path / "model")
    autoencoder.measure_normalizer([images])
    autoencoder.model.decoder.conv_out.bias.data += 1  # latents are the same
    autoencoder.save_pretrained(tmp_path / "model")
    autoencoder.model.quant_conv.bias.data += 1  # latents are not
    with pytest.raises(UserError, match="measured on another encoder"):
        autoencoder.save_pretrained(tmp_path / "model")
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path / "model")


def test_a_folder_with_another_models_statistics_is_refused(tmp_path, images):
    autoencoder = tiny()
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["quant_conv.bias"] += 1
    save_file(state, file)
    with pytest.raises(UserError, match="measured on another encoder"):
        KLAutoencoderConfig(source=str(tmp_path)).build()


def test_incomplete_weights_are_refused_not_made_up(tmp_path, images):
    autoencoder = tiny()
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["decoder.conv_out.bias"]
    save_file(state, file)
    with pytest.raises(UserError, match=r"lacks 1 weight.*decoder\.conv_out\.bias"):
        KLAutoencoderConfig(source=str(tmp_path)).build()


def test_attention_names_of_older_checkpoints_still_load(tmp_path, images):
    """Stable Diffusion's published files name the attention's weights as diffusers once did."""
    autoencoder = tiny()
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(file)
    for new, name in old.items():
        state = {k.replace(f".{new}.", f".{name}."): v for k, v in state.items()}
    assert any(".proj_attn." in key for key in state)
    save_file(state, file)
    assert KLAutoencoderConfig(source=str(tmp_path)).build().digest() == autoencoder.digest()


def test_stated_architecture_must_agree_with_the_source(tmp_path, images):
    autoencoder = tiny()
    autoencoder.measure_normalizer([images])
    autoencoder.save_pretrained(tmp_path)
    assert KLAutoencoderConfig(source=str(tmp_path), **TINY).build().digest()
    with pytest.raises(UserError, match=r"latent_channels is set to 8, but .* has 3"):
        KLAutoencoderConfig(source=str(tmp_path), latent_channels=8).build()


def test_missing_source_names_every_way(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        KLAutoencoderConfig(source="nobody/no-such-vae").build()
    for part in ("nobody/no-such-vae", "hub id", "HF_HUB_OFFLINE", "folder", "source=scratch"):
        assert part in str(error.value)


def test_widths_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"multiples of norm_num_groups 32 \(\[48\] are not\)"):
        KLAutoencoderConfig(block_out_channels=[32, 48])


@pytest.mark.parametrize("part", ["both", "encoder", "decoder"])
def test_trainable_parameters_are_all_that_get_gradient(images, part):
    autoencoder = tiny()
    chosen = autoencoder.trainable_parameters(part)
    autoencoder.decode(autoencoder.encode(images).sample()).square().mean().backward()
    moved = [p for p in autoencoder.parameters() if p.grad is not None]
    assert {id(p) for p in moved} == {id(p) for p in chosen}
    assert len(chosen) == len(set(map(id, chosen)))
    everything = autoencoder.encoder_parameters() + autoencoder.decoder_parameters()
    assert {id(p) for p in everything} == {id(p) for p in autoencoder.parameters()}


def test_gradient_checkpointing_gives_the_same_gradients_and_is_really_on(images):
    plain, saving = tiny(), tiny(gradient_checkpointing=True)
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    saving.model.encoder.down_blocks[0].register_forward_pre_hook(count)
    for autoencoder in (plain, saving):
        autoencoder.train()
        autoencoder.decode(autoencoder.encode(images).mode()).square().mean().backward()
    assert calls == 2, "forward, and once more in the backward pass"
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_keeps_master_weights_and_outputs_in_float32(images):
    autoencoder = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = autoencoder.encode(images)
        decoded = autoencoder.decode(posterior.mode())
    assert posterior.mean.dtype == posterior.logvar.dtype == decoded.dtype == torch.float32
    assert {p.dtype for p in autoencoder.parameters()} == {torch.float32}


def test_last_decoder_weight_makes_the_pixels():
    autoencoder = tiny()
    assert autoencoder.last_decoder_weight().shape[0] == autoencoder.channels == 1
