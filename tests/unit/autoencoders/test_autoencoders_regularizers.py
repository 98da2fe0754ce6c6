"""Rival regularizers in the autoencoder task: alone, added up, cut into micro-batches, spread over
processes."""

import copy

import pytest
import torch

from helpers.ranks import run_ranks
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.objective import AdversarialConfig, ObjectiveConfig
from latentsmith.autoencoders.task import REFERENCE, TOKENS, AutoencoderTask
from latentsmith.cli.sweep import expand, names
from latentsmith.config.compose import compose
from latentsmith.errors import UserError
from latentsmith.losses.correlation import PearsonConfig
from latentsmith.losses.eqvae import EQVAEConfig
from latentsmith.losses.vavae import VAVAEConfig
from latentsmith.training.batches import split
from latentsmith.training.parts import trainable
from latentsmith.training.task import StepContext

EQ, VA, PAIRS = EQVAEConfig(), VAVAEConfig(weight=0.5), PearsonConfig(weight=0.5)


def still_autoencoder():
    """Its posterior has next to no spread: a batch's loss does not depend on how noise is cut."""
    model = KLAutoencoderConfig(
        in_channels=1, block_out_channels=[8, 16], layers_per_block=1, latent_channels=2,
        norm_num_groups=4,
    ).build()  # fmt: skip
    with torch.no_grad():
        model.model.quant_conv.weight[2:] = 0
        model.model.quant_conv.bias[2:] = -40
    return model


def batch(n=8):
    rng = torch.Generator().manual_seed(1)
    return {
        "index": torch.arange(n),
        "image": torch.rand(n, 1, 16, 16, generator=rng),
        REFERENCE + "encoder": torch.randn(n, 5, generator=rng),
        TOKENS + "encoder": torch.randn(n, 4, 6, generator=rng),
    }


def task(objective=None, **losses):
    return AutoencoderTask(
        still_autoencoder(),
        objective or ObjectiveConfig(l1=0, mse=1),
        losses=losses,
        terms={"encoder": 1.0},
        token_widths={"encoder": 6},
    )


def context(**changes):
    return StepContext(**({"samples_seen": 0, "total_samples": 100, "seed": 3} | changes))


def gradients(module):
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same(got, wanted, limit=1e-4):
    scale = max(float(value.abs().max()) for value in wanted.values())
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        assert (value - wanted[name]).abs().max() < limit * scale, name


def whole_batch(t):
    out = t("autoencoder", batch(), context())
    out["loss"].backward()
    return out, gradients(t)


def test_parts_add_up_and_go_by_their_names():
    t = task(pairs=PAIRS, eq=EQ, va=VA)
    out, grads = whole_batch(t)
    assert out.keys() == {
        "loss", "l1", "mse", "kl", "pairs/encoder", "eq/reconstruction", "va/cosine",
        "va/relation", "va/adaptive",
    }  # fmt: skip
    total = out["mse"] + 1e-6 * out["kl"] + 0.5 * out["pairs/encoder"] + out["eq/reconstruction"]
    total = total + 0.5 * out["va/adaptive"] * (out["va/cosine"] + out["va/relation"])
    torch.testing.assert_close(out["loss"].detach(), total, rtol=1e-5, atol=1e-6)
    assert grads["regularizers.2.projection.weight"].norm() > 0


def test_alignment_pulls_at_the_encoder_in_proportion_to_the_reconstruction():
    """Half as hard with weight 0.5; KL is no part of the measure."""
    key = "autoencoder.model.encoder.conv_out.weight"
    plain, aligned = (
        whole_batch(task(ObjectiveConfig(l1=0, mse=1, kl=0), **losses))[1][key]
        for losses in ({}, {"va": VA})
    )
    torch.testing.assert_close((aligned - plain).norm(), 0.5 * plain.norm(), rtol=1e-3, atol=0)


def test_weights_ramp_each_on_its_own():
    t = task(eq=EQVAEConfig(weight=2.0, ramp=0.5), pairs=PAIRS)
    for seen, weight in ((0, 0.0), (25, 1.0), (50, 2.0)):
        out = t("autoencoder", batch(), context(samples_seen=seen))
        rest = out["mse"] + 1e-6 * out["kl"] + 0.5 * out["pairs/encoder"]
        wanted = weight * out["eq/reconstruction"]
        torch.testing.assert_close(out["loss"] - rest, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "losses",
    [
        {"eq": EQ},
        {"pairs": PAIRS, "eq": EQ},
        {"pairs": PAIRS, "va": VAVAEConfig(adaptive=False)},
        {"pairs": PAIRS, "more": PearsonConfig(weight=0.2, distance="tokens"), "eq": EQ},
    ],
    ids=lambda losses: "+".join(losses),
)
def test_micro_batches_give_the_whole_batchs_gradient(losses):
    whole = task(**losses)
    parts = copy.deepcopy(whole)
    full, wanted = whole_batch(whole)
    micros = split(batch(), 4)
    parts.look_ahead("autoencoder", micros, context(micros=4))
    outs = [parts("autoencoder", m, context(micro=k, micros=4)) for k, m in enumerate(micros)]
    sum(out["loss"] / 4 for out in outs).backward()
    assert_same(gradients(parts), wanted)
    for name in full:  # the log shows the batch's parts
        mean = torch.stack([out[name].detach() for out in outs]).mean()
        torch.testing.assert_close(mean, full[name].detach(), rtol=1e-4, atol=1e-5)


def on_rank(rank, world):
    t = task(pairs=PAIRS, eq=EQ, va=VA)
    own = {k: v[rank * 4 : rank * 4 + 4] for k, v in batch().items()}
    out = t("autoencoder", own, context(rank=rank, world_size=world))
    out["loss"].backward()
    return out["va/adaptive"].detach(), gradients(t)


def test_two_processes_give_the_whole_batchs_gradient():
    (ratio, first), (other, second) = run_ranks(on_rank, 2)
    out, wanted = whole_batch(task(pairs=PAIRS, eq=EQ, va=VA))
    assert ratio == other
    torch.testing.assert_close(ratio, out["va/adaptive"].detach(), rtol=1e-4, atol=0)
    assert_same({n: (first[n] + second[n]) / 2 for n in first}, wanted)


def test_the_discriminator_learns_from_the_pictures_the_generator_is_judged_on():
    """EQ-VAE's own code draws another transform for each."""
    gan = AdversarialConfig(weight=0.5, channels=4, layers=1)
    small = EQVAEConfig(scale=(0.25, 0.5))  # 4 pixels, where the discriminator needs 6
    t = task(ObjectiveConfig(l1=0, mse=1, adversarial=gan), eq=small)
    seen = []
    t.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for samples in range(0, 100, 10):
        seen.clear()
        ctx = context(samples_seen=samples)
        out = t("autoencoder", batch(), ctx)
        assert out["adversarial"] != 0
        fakes = list(seen)
        seen.clear()
        t("discriminator", batch(), ctx)["loss"].backward()
        reals, learnt = seen[:2], seen[2:]
        assert torch.equal(reals[0], batch()["image"])
        assert len(fakes) == len(learnt) == 2
        for fake, other, real in zip(fakes, learnt, reals, strict=True):
            assert torch.allclose(fake, other, atol=1e-6)
            assert real.shape == other.shape
            assert min(other.shape[2:]) >= t.discriminator.smallest


def test_a_projection_is_trained_and_saved_but_not_exported():
    t = task(va=VA)
    name = "regularizers.0.projection.weight"
    assert name in trainable(t)
    (objective,) = t.objectives()
    assert any(p is t.regularizers[0].projection.weight for p in objective.params)
    assert not any("projection" in key for key in t.autoencoder.state_dict())


def test_online_tokens_are_those_of_the_batchs_own_images():
    seen = []

    def locate(images):
        seen.append(images)
        return batch()[TOKENS + "encoder"]

    online = AutoencoderTask(
        still_autoencoder(), ObjectiveConfig(l1=0, mse=1), losses={"va": VA},
        online_tokens={"encoder": locate}, token_widths={"encoder": 6},
    )  # fmt: skip
    data = batch()
    cached = task(va=VA)("autoencoder", data, context())["loss"]
    data.pop(TOKENS + "encoder")
    assert online("autoencoder", data, context())["loss"] == cached
    assert seen[0] is data["image"]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_training_one_half_only(part):
    t = task(ObjectiveConfig(l1=0, mse=1, train=part), eq=EQ, va=VA)
    out, grads = whole_batch(t)
    assert ("va/adaptive" in out) == (part == "encoder")  # no pull on what is not trained
    halves = {name.split(".")[2] for name in grads if name.startswith("autoencoder")}
    assert halves == (
        {"encoder", "quant_conv"} if part == "encoder" else {"decoder", "post_quant_conv"}
    )


def test_a_reference_without_tokens():
    with pytest.raises(UserError, match="choose an encoder with tokens"):
        AutoencoderTask(still_autoencoder(), ObjectiveConfig(), losses={"va": VA})


# Settings -----------------------------------------------------------------------------------------


def losses(*words):
    return compose("mmreg", ["scale=smoke", *words]).losses()


def test_what_regularizes():
    assert list(losses()) == ["pairs"]
    assert losses("loss=none") == losses("loss.weight=0") == {}
    assert losses("loss=eqvae") == {"eqvae": EQVAEConfig()}
    assert list(losses("more_losses.eq=eqvae")) == ["pairs", "eq"]
    assert list(losses("loss=none", "more_losses.eq=eqvae")) == ["eq"]
    assert list(losses("more_losses.eq=eqvae", "more_losses.eq.weight=0")) == ["pairs"]
    assert list(losses("loss=eqvae", "finetune.batch_size=1")) == ["eqvae"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["loss=vavae"],
            "'encoder' = pixel_pca has none: choose one of clip, denoiser, dinov2, effi",
        ),
        (["more_losses.va=vavae", "more_losses.va.reference=x"], "tokens of reference 'x', but"),
        (["more_losses.pairs=eqvae"], "may not use the name 'pairs', under which loss=pearson"),
        (["loss=eqvae", "more_losses.eqvae=eqvae"], "may not use the name 'eqvae'"),
        (["loss=eqvae", "more_losses.p=pearson", "finetune.batch_size=1"], "at least 2 samples"),
    ],
)
def test_settings_that_cannot_work(words, text):
    with pytest.raises(UserError, match=text):
        losses(*words)


def test_a_scales_weight_of_one_loss_does_not_reach_another():
    assert compose("mmreg", ["scale=paper", "loss=eqvae"]).loss.weight == EQVAEConfig().weight
    assert compose("mmreg", ["scale=paper", "loss=vavae"]).loss.weight == VAVAEConfig().weight
    pearson = compose("mmreg", ["scale=laptop"]).loss.weight
    for kind in ("eqvae", "vavae", "si_huber"):
        assert compose("mmreg", ["scale=laptop", f"loss={kind}"]).loss.weight != pearson


@pytest.mark.parametrize("scale", ["laptop", "paper"])
@pytest.mark.parametrize("kind", ["eqvae", "vavae"])
def test_an_experiment_is_the_choice_of_its_loss(kind, scale):
    chosen = compose("mmreg", [f"scale={scale}", f"loss={kind}"])
    assert compose("mmreg", [f"scale={scale}", f"experiment={kind}"]) == chosen
    both = compose("mmreg", [f"scale={scale}", f"experiment=pearson_{kind}"]).losses()
    assert [loss.kind for loss in both.values()] == ["pearson", kind]


def test_sweep_over_the_rivals():
    grid = expand(["scale=laptop", "loss=none,pearson,si_huber,eqvae,vavae", "seed=0,1,2"])
    assert len(grid) == 15
    assert names(grid)[0] == "00-loss=none,seed=0"
    assert names(grid)[-1] == "14-loss=vavae,seed=2"
    kinds = [compose("mmreg", words).loss.kind for words in grid[::3]]
    assert kinds == ["none", "pearson", "si_huber", "eqvae", "vavae"]
