"""What every registered sampler and every registered guidance promises."""

import pytest
import torch

from helpers.flows import SHAPE, Gaussian, TinyBackbone
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.diffusion.paths import PATHS
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.registry import read
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.sampling.samplers.base import SteppedConfig

SAMPLER_NAMES, GUIDANCE_NAMES = SAMPLERS.names(), GUIDANCE.names()
ALL_PATHS = {
    "linear": LinearPath(),
    "gvp": GVPPath(),
    "vp": VPPathConfig().build(),
    "cosine": VPPathConfig(schedule="cosine").build(),
    "zero snr": VPPathConfig(zero_terminal_snr=True).build(),
}
LOOSE = {"adaptive": 1e-3}
"""Samplers whose steps are the batch's: samples agree to their tolerance."""


def sampler(name, steps=8):
    config = SAMPLERS[name].config
    return config(steps=steps) if issubclass(config, SteppedConfig) else config()


def guidance(name):
    return GUIDANCE[name].config()


class TinyEditor(TinyBackbone):
    """The tiny network, which also looks at an image to edit."""

    edits = True

    def forward(self, z, t, condition, *, taps=()):
        has = condition["has_source"].view(-1, 1, 1, 1)
        return super().forward(z + 0.3 * has * condition["source"], t, condition)

    def null(self, condition):
        return self.null_text(condition) | {"has_source": condition["has_source"] & False}

    def null_text(self, condition):
        return condition | super().null(condition)


def model(name, path, seed=0):
    return Denoiser((TinyEditor if name == "edit" else TinyBackbone)(seed), path)


def told(name, labels):
    """A condition of samples labelled so, with what guidance ``name`` needs."""
    if name != "edit":
        return {"label": labels}
    source = starting_noise(9, labels, SHAPE).double()
    return {"label": labels, "source": source, "has_source": torch.ones_like(labels).bool()}


def drawn(config, path, indices, *, by="none", weak=None, dtype=torch.float32):
    """Samples of the tiny network, labelled by their number."""
    indices = torch.as_tensor(indices)
    denoise = guidance(by).bind(model(by, path), told(by, indices % 5), weak)
    with torch.no_grad():
        return config.sample(
            denoise,
            starting_noise(3, indices, SHAPE).to(dtype),
            path=path,
            noise=NoiseSource(3, indices),
        )


@pytest.mark.parametrize(
    ("registry", "base"), [(SAMPLERS, SamplerConfig), (GUIDANCE, GuidanceConfig)]
)
def test_configs(registry, base):
    for entry in registry:
        config = entry.config()
        assert isinstance(config, base) and config.kind == entry.name
        assert entry.help and "\n" not in entry.help
        assert read(registry, vars(config)) == config


def test_every_path_is_tried():
    assert {type(PATHS[n].config().build()) for n in PATHS.names()} == {
        type(path) for path in ALL_PATHS.values()
    }


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_finite_data_from_noise_on_every_path(name, path):
    path = ALL_PATHS[path]
    out = drawn(sampler(name), path, range(4))
    assert out.shape == (4, *SHAPE) and out.dtype == torch.float32
    assert out.isfinite().all() and out.std() > 0


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_the_right_distribution(name, path):
    """Normal data of mean 0.7 and deviation 0.5 comes out, up to what few steps cost."""
    path = ALL_PATHS[path]
    config, count = sampler(name, steps=50), 2000
    z = starting_noise(0, range(count), (1,)).double()
    out = config.sample(Gaussian(path), z, path=path, noise=NoiseSource(0, range(count)))
    assert float(out.mean()) == pytest.approx(0.7, abs=0.06)
    assert float(out.std()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_grid(name):
    for path in ALL_PATHS.values():
        times = sampler(name).times(path)
        assert times.dtype == torch.float64 and times.device.type == "cpu"
        assert bool((times.diff() < 0).all()) and float(times[0]) <= 1 and float(times[-1]) == 0
        if isinstance(sampler(name), SteppedConfig):
            assert len(times) == 9
            assert torch.equal(path.on_grid(times[:-1]), times[:-1]), "off the trained steps"


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_same_seed_same_samples_and_any_batch_size(name):
    config, path = sampler(name), LinearPath()
    everyone = drawn(config, path, range(6), dtype=torch.float64)
    assert torch.equal(everyone, drawn(config, path, range(6), dtype=torch.float64))
    parts = [drawn(config, path, some, dtype=torch.float64) for some in ([0], [1, 2, 3], [4, 5])]
    atol = LOOSE.get(name, 1e-12)
    torch.testing.assert_close(torch.cat(parts), everyone, rtol=0, atol=atol)
    backwards = drawn(config, path, [5, 4, 3, 2, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(backwards.flip(0), everyone, rtol=0, atol=atol)


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_one_step(name, path):
    path = ALL_PATHS[path]
    config = sampler(name, steps=1)
    out = drawn(config, path, range(3))
    assert out.shape == (3, *SHAPE) and out.isfinite().all()
    if isinstance(config, SteppedConfig):
        assert len(config.times(path)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_dtypes(name, dtype):
    """The network sees z's dtype, the state is float32 or wider, z itself is left alone."""
    path, wide = LinearPath(), torch.promote_types(dtype, torch.float32)
    model, seen = Gaussian(path), set()

    def denoise(z, t):
        seen.add((z.dtype, t.dtype, t.shape))
        return model(z, t)

    z = starting_noise(0, range(3), (2, 5)).to(dtype)
    before = z.clone()
    out = sampler(name).sample(denoise, z, path=path, noise=NoiseSource(0, range(3)))
    assert out.dtype == dtype and out.shape == z.shape
    assert seen == {(dtype, wide, (3,))}
    assert torch.equal(z, before)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_half_precision_costs_its_rounding_once(name):
    """The state does not round at every step: 64 steps in bfloat16 stay near float64's."""
    path = LinearPath()
    model = Gaussian(path)

    def denoise(z, t):  # what the network sees is rounded, what it says is not
        return model(z.double(), t.double())

    config = sampler(name, steps=64)
    z = starting_noise(0, range(8), (2, 5)).bfloat16()
    noise = NoiseSource(0, range(8))
    low = config.sample(denoise, z, path=path, noise=noise)
    high = config.sample(denoise, z.double(), path=path, noise=noise)
    torch.testing.assert_close(low.double(), high, rtol=0.01, atol=0.03)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_gradients_pass(name):
    path = ALL_PATHS["vp"]  # from pure noise, ddpm keeps nothing of the very start
    z = starting_noise(0, range(2), (3,)).double().requires_grad_()
    out = sampler(name).sample(Gaussian(path), z, path=path, noise=NoiseSource(0, range(2)))
    (grad,) = torch.autograd.grad(out.sum(), z)
    assert grad.isfinite().all() and (grad > 0).all()


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_the_same_samples_on_a_gpu(name, gpu):
    path = LinearPath()
    z = starting_noise(0, range(6), (2, 5)).double()
    here, there = (
        sampler(name).sample(
            Gaussian(path), z.to(at), path=path, noise=NoiseSource(0, range(6), device=at)
        )
        for at in ("cpu", gpu)
    )
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GUIDANCE_NAMES)
def test_guidance(name):
    """Shape, dtype, the z it was asked about, each sample by itself, scale 1 the model itself."""
    path = LinearPath()
    asked, weak = model(name, path), model(name, path, 1) if name == "autoguidance" else None
    z = starting_noise(0, range(4), SHAPE).double()
    t = torch.full((4,), 0.4, dtype=torch.float64)
    condition = told(name, torch.tensor([0, 3, 4, 1]))
    seen = guidance(name).bind(asked, condition, weak)(z, t)
    assert seen.data.shape == z.shape and seen.data.dtype == z.dtype
    torch.testing.assert_close(seen.z(), z)
    some = {what: value[1:3] for what, value in condition.items()}
    alone = guidance(name).bind(asked, some, weak)(z[1:3], t[1:3])
    torch.testing.assert_close(alone.data, seen.data[1:3])
    scales = [what for what in ("scale", "text", "image") if hasattr(guidance(name), what)]
    if scales:
        config = GUIDANCE[name].config(**dict.fromkeys(scales, 1.0))
        one = config.bind(asked, condition, weak)(z, t)
        assert torch.equal(one.data, asked(z, t, condition).data)
        assert not torch.allclose(seen.data, one.data)


@pytest.mark.parametrize("name", GUIDANCE_NAMES)
@pytest.mark.parametrize("by", SAMPLER_NAMES)
def test_samplers_and_guidance_together(by, name):
    path = LinearPath()
    weak = model(name, path, 1) if name == "autoguidance" else None
    out = drawn(sampler(by, 4), path, range(3), by=name, weak=weak)
    assert out.shape == (3, *SHAPE) and out.isfinite().all()


def test_the_base_classes_promise_nothing():
    with pytest.raises(TypeError, match=r"SamplerConfig has no sample\(\)"):
        SamplerConfig(kind="x").sample(Gaussian(LinearPath()), torch.zeros(1), path=LinearPath())
    with pytest.raises(TypeError, match=r"SamplerConfig has no times\(\)"):
        SamplerConfig(kind="x").times(LinearPath())
    with pytest.raises(TypeError, match=r"GuidanceConfig has no bind\(\)"):
        GuidanceConfig(kind="x").bind(Denoiser(TinyBackbone(), LinearPath()), {})
