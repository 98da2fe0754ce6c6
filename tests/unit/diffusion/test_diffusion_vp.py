"""The vp path: diffusers' schedules, exact on the steps; scheduler configs."""

import json

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from latentsmith.diffusion.scheduler import read_scheduler, vp_from_scheduler
from latentsmith.diffusion.vp import VPPath, VPPathConfig, betas, zero_terminal_snr
from latentsmith.errors import UserError

SCHEDULES = [
    ("linear", "linear", 1e-4, 0.02),
    ("scaled_linear", "scaled_linear", 0.00085, 0.012),
    ("cosine", "squaredcos_cap_v2", 1e-4, 0.02),
]


@pytest.fixture(params=[False, True], ids=["plain", "zero terminal snr"])
def zero(request):
    return request.param


def pair(ours, theirs, start, end, zero, timesteps=1000):
    path = VPPathConfig(
        schedule=ours, beta_start=start, beta_end=end, timesteps=timesteps, zero_terminal_snr=zero
    ).build()
    scheduler = DDPMScheduler(
        beta_schedule=theirs, beta_start=start, beta_end=end, clip_sample=False,
        num_train_timesteps=timesteps, rescale_betas_zero_snr=zero,
    )  # fmt: skip
    return path, scheduler


@pytest.mark.parametrize(("ours", "theirs", "start", "end"), SCHEDULES)
def test_schedules_are_those_of_diffusers(ours, theirs, start, end, zero):
    for timesteps in (1000, 20):
        path, scheduler = pair(ours, theirs, start, end, zero, timesteps)
        # theirs are float32 all the way, and the last ones are tiny
        torch.testing.assert_close(
            path.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=1e-2, atol=1e-6
        )
        big = path.alphas_cumprod > 1e-2
        torch.testing.assert_close(
            path.alphas_cumprod[big], scheduler.alphas_cumprod.double()[big], rtol=1e-4, atol=0
        )


@pytest.mark.parametrize(("ours", "theirs", "start", "end"), SCHEDULES)
def test_noising_is_that_of_diffusers(ours, theirs, start, end, zero):
    path, scheduler = pair(ours, theirs, start, end, zero)
    rng = torch.Generator().manual_seed(0)
    i = torch.tensor([0, 1, 17, 500, 998, 999])
    data, noise = torch.randn(2, len(i), 2, 3, 3, generator=rng)
    for t in (path.time(i), path.time(i).float()):
        assert torch.equal(path.index(t), i)
        torch.testing.assert_close(
            path.mix(data, noise, t), scheduler.add_noise(data, noise, i), rtol=1e-4, atol=1e-5
        )


def test_exact_on_the_steps(zero):
    path = VPPathConfig(zero_terminal_snr=zero).build()
    i = torch.arange(1000)
    for t in (path.time(i), path.time(i).float().double()):
        torch.testing.assert_close(
            path.alpha(t), path.alphas_cumprod.sqrt(), rtol=1e-12, atol=1e-15
        )
        torch.testing.assert_close(
            path.sigma(t), (1 - path.alphas_cumprod).sqrt(), rtol=1e-12, atol=1e-15
        )
        assert torch.equal(path.index(t), i)
        torch.testing.assert_close(path.on_grid(t), path.time(i), rtol=0, atol=1e-7)
    if zero:
        assert path.alpha(path.time(999)) == 0  # exactly: what follows from it must be seen
        torch.testing.assert_close(
            path.alphas_cumprod[0], VPPathConfig().build().alphas_cumprod[0], rtol=1e-14, atol=0
        )


def test_variance_is_preserved_between_the_steps():
    t = torch.linspace(0, 1, 3333, dtype=torch.float64)
    path = VPPathConfig(zero_terminal_snr=True).build()
    one = path.alpha(t).square() + path.sigma(t).square()
    torch.testing.assert_close(one, torch.ones_like(one), rtol=1e-14, atol=0)


def test_at_a_step_the_derivative_is_that_from_below():
    path = VPPathConfig(timesteps=10, beta_end=0.5).build()
    exact, h = path.time(torch.arange(10)), 1e-6
    below = (path.alpha(exact) - path.alpha(exact - h)) / h
    for t in (exact, exact.float()):
        torch.testing.assert_close(path.d_alpha(t).double(), below, rtol=1e-4, atol=1e-4)


def test_on_grid_is_the_step_at_or_after():
    path = VPPathConfig(timesteps=4, beta_end=0.5).build()
    t = torch.tensor([0.0, 0.01, 0.25, 0.26, 0.5, 0.9, 1.0])
    assert path.on_grid(t).tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_zero_terminal_snr_by_hand():
    bar = torch.tensor([0.81, 0.36, 0.04], dtype=torch.float64)  # roots 0.9 0.6 0.2
    roots = torch.tensor([0.9, 0.4 * 0.9 / 0.7, 0.0], dtype=torch.float64)
    torch.testing.assert_close(zero_terminal_snr(bar), roots.square(), rtol=1e-12, atol=1e-15)


def test_schedules_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"no noise schedule 'sigmoid'.*squaredcos_cap_v2"):
        betas("sigmoid", 10, 0.1, 0.2)
    for bad in ([0.5, 0.5], [0.5, 0.6], [1.0, 0.5], [0.5, -0.1]):
        with pytest.raises(UserError, match="not strictly falling"):
            VPPath(torch.tensor(bad))
    with pytest.raises(ValueError, match="trained_betas has 2 entries and timesteps is 1000"):
        VPPathConfig(trained_betas=[0.1, 0.2])


# Scheduler configs -------------------------------------------------------------------------------


def test_a_saved_scheduler_is_read(tmp_path):
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
        num_train_timesteps=50, prediction_type="v_prediction", set_alpha_to_one=False,
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "scheduler" / "scheduler_config.json"
    for config in (tmp_path, tmp_path / "scheduler", file, str(file), json.loads(file.read_text())):
        facts = read_scheduler(config)
        assert facts.path == VPPathConfig(
            schedule="scaled_linear", timesteps=50, beta_start=0.00085, beta_end=0.012,
            zero_terminal_snr=True,
        )  # fmt: skip
        assert (facts.predicts, facts.spacing, facts.offset) == ("v", "trailing", 1)
        assert facts.ends_on_data is False
        path = vp_from_scheduler(config)
        torch.testing.assert_close(
            path.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-6
        )


def test_what_a_config_leaves_out_is_the_class_default():
    facts = read_scheduler({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"})
    assert (facts.predicts, facts.spacing, facts.offset) == ("noise", "leading", 0)
    assert facts.path.beta_end == 0.02 and facts.path.timesteps == 1000
    assert facts.ends_on_data is False
    assert read_scheduler({"_class_name": "EulerDiscreteScheduler"}).spacing == "linspace"
    assert read_scheduler({}).path == VPPathConfig()


def test_trained_betas_are_read():
    scheduler = DDPMScheduler(trained_betas=[0.1, 0.2, 0.4])
    path = vp_from_scheduler(dict(scheduler.config))
    torch.testing.assert_close(path.alphas_cumprod, scheduler.alphas_cumprod.double())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid', which is not known. Known"),
        ({"beta_schedule": "scaled_liner"}, "Did you mean 'scaled_linear'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"timestep_spacing": "random"}, "timestep_spacing 'random'"),
        ({"_class_name": "NoScheduler"}, "'NoScheduler', a scheduler diffusers does not have"),
    ],
)
def test_unknown_settings_are_named(config, message):
    with pytest.raises(UserError, match=message):
        read_scheduler(config)


def test_flow_schedulers_and_missing_files_are_refused(tmp_path):
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"FlowMatchEulerDiscreteScheduler.*use path=linear"):
        read_scheduler(tmp_path)
    with pytest.raises(UserError, match=r"no scheduler_config.json at .*nothing"):
        read_scheduler(tmp_path / "nothing")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        read_scheduler(tmp_path / "bad.json")


def test_the_defaults_come_from_diffusers():
    assert diffusers.DDPMScheduler().config.timestep_spacing == "leading"
