"""The autoencoder task: what each term does to which parameters."""

import copy

import pytest
import torch

from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.objective import AdversarialConfig, ObjectiveConfig
from latentsmith.autoencoders.task import REFERENCE, AutoencoderTask
from latentsmith.losses.correlation import PearsonConfig
from latentsmith.training.batches import split
from latentsmith.training.task import StepContext

SHAPE = {
    "in_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1,
    "latent_channels": 2, "norm_num_groups": 4,
}  # fmt: skip


def autoencoder(seed=0):
    return KLAutoencoderConfig(init_seed=seed, **SHAPE).build()


def batch(n=8, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return {
        "index": torch.arange(n),
        "image": torch.rand(n, 1, 16, 16, generator=gen),
        REFERENCE + "encoder": torch.randn(n, 5, generator=gen),
    }


def context(**changes):
    return StepContext(samples_seen=0, total_samples=100, seed=3, **changes)


def task(*, latent="mode", pairs=True, **objective):
    return AutoencoderTask(
        autoencoder(),
        ObjectiveConfig(latent=latent, **objective),
        losses={"pairs": PearsonConfig(weight=0.5)} if pairs else {},
        terms={"encoder": 1.0},
    )


def gradients(module):
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_pairs_move_the_encoder_only():
    with_pairs, without = task(), task(pairs=False)
    for t in (with_pairs, without):
        t("autoencoder", batch(), context())["loss"].backward()
    a, b = gradients(with_pairs.autoencoder), gradients(without.autoencoder)
    assert a.keys() == b.keys()
    moved = {name.split(".")[1] for name in a if not torch.allclose(a[name], b[name], atol=1e-9)}
    assert {"encoder", "quant_conv"} & moved
    assert not {"decoder", "post_quant_conv"} & moved


@pytest.mark.parametrize(("seen", "weight"), [(0, 0.0), (25, 0.25), (50, 0.5), (100, 0.5)])
def test_weight_ramps(seen, weight):
    config = PearsonConfig(weight=0.5, ramp=0.5)
    t = AutoencoderTask(
        autoencoder(), ObjectiveConfig(), losses={"pairs": config}, terms={"encoder": 1.0}
    )
    out = t("autoencoder", batch(), StepContext(samples_seen=seen, total_samples=100, seed=3))
    rest = out["l1"] + 1e-6 * out["kl"]
    assert torch.allclose(out["loss"] - rest, weight * out["pairs/encoder"], atol=1e-5)


@pytest.mark.parametrize("latent", ["mode", "sample"])
def test_gradient_cache_gives_the_whole_batchs_gradient(latent):
    """Micro-batches of 2 with `look_ahead` against one batch of 8. Only the pair term needs the
    cache; reconstruction noise is drawn per micro-batch, so it is switched off."""
    whole = task(latent=latent, l1=0.0, kl=0.0)
    parts = copy.deepcopy(whole)
    data = batch()
    micros = split(data, 4)

    if latent == "sample":  # the whole batch must see the micro-batches' noise
        noise = torch.cat(
            [
                torch.empty(2, 2, 8, 8).normal_(generator=context(micro=k, micros=4).noise("pairs"))
                for k in range(4)
            ]
        )
        posterior = whole.autoencoder.encode(data["image"])
        latents = posterior.mean + (0.5 * posterior.logvar).exp() * noise
        loss, _ = whole.regularizers[0].pairs(latents, {"encoder": data[REFERENCE + "encoder"]})
        (0.5 * loss).backward()
    else:
        whole("autoencoder", data, context())["loss"].backward()

    parts.look_ahead("autoencoder", micros, context(micros=4))
    for k, micro in enumerate(micros):
        out = parts("autoencoder", micro, context(micro=k, micros=4))
        (out["loss"] / 4).backward()
    expected = gradients(whole.autoencoder)
    # one scale for all: some gradients (a key's bias) are zero but for rounding
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in gradients(parts.autoencoder).items():
        wanted = expected.get(name, torch.zeros_like(value))
        assert torch.allclose(value, wanted, atol=1e-5 * scale, rtol=0), name


def test_plain_accumulation_would_be_another_gradient():
    """The control of the test above: without the cache the gradient differs."""
    whole = task(l1=0.0, kl=0.0)
    parts = copy.deepcopy(whole)
    whole("autoencoder", batch(), context())["loss"].backward()
    for k, micro in enumerate(split(batch(), 4)):
        (parts("autoencoder", micro, context(micro=k, micros=4))["loss"] / 4).backward()
    a, b = gradients(whole.autoencoder), gradients(parts.autoencoder)
    name = "model.encoder.conv_in.weight"
    cosine = torch.cosine_similarity(a[name].flatten(), b[name].flatten(), dim=0)
    assert cosine < 0.99


def test_discriminator_and_autoencoder_each_train_their_own():
    adversarial = AdversarialConfig(weight=0.5, channels=4, layers=1, starts_at=10)
    t = task(pairs=False, adversarial=adversarial)
    names = [objective.name for objective in t.objectives()]
    assert names == ["autoencoder", "discriminator"]
    before = t("autoencoder", batch(), context())
    assert "adversarial" not in before  # not yet met
    ctx = StepContext(samples_seen=10, total_samples=100, seed=3)
    out = t("autoencoder", batch(), ctx)
    assert out["adversarial"] != 0
    t.zero_grad()
    t("discriminator", batch(), ctx)["loss"].backward()
    assert gradients(t.discriminator)
    assert not gradients(t.autoencoder)


def test_online_references_see_the_batchs_own_images():
    seen = []

    def locate(images):
        seen.append(images)
        return images.flatten(1)

    t = AutoencoderTask(
        autoencoder(), ObjectiveConfig(), losses={"pairs": PearsonConfig()}, terms={"encoder": 1.0},
        online={"encoder": locate},
    )  # fmt: skip
    data = batch()
    t("autoencoder", data, context())
    assert seen[0] is data["image"]


def test_hybrid_sums_weighted_references():
    config = PearsonConfig(weight=1.0)
    data = batch() | {REFERENCE + "pca": torch.randn(8, 3, generator=torch.Generator())}
    total = AutoencoderTask(
        autoencoder(), ObjectiveConfig(l1=0, kl=0), losses={"pairs": config},
        terms={"encoder": 1.0, "pca": 0.5},
    )("autoencoder", data, context())  # fmt: skip
    expected = total["pairs/encoder"] + 0.5 * total["pairs/pca"]
    assert torch.allclose(total["loss"], expected, atol=1e-6)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_train_only_one_half(part):
    t = task(train=part)
    t("autoencoder", batch(), context())["loss"].backward()
    halves = {name.split(".")[1] for name in gradients(t.autoencoder)}
    assert halves == (
        {"encoder", "quant_conv"} if part == "encoder" else {"decoder", "post_quant_conv"}
    )
