"""The field autoencoder: points in, values anywhere; images; files; training."""

import json

import pytest
import torch
from torch.nn import functional as F

from helpers.fields import field_autoencoder, field_config, points
from latentsmith.autoencoders.field.decoders import DECODERS
from latentsmith.autoencoders.field.features import FourierConfig, Nearness
from latentsmith.autoencoders.field.flow import FieldFlowConfig, load_flow
from latentsmith.autoencoders.field.flow_task import FieldFlowTask
from latentsmith.autoencoders.field.neighbours import Gather, Neighbours
from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.autoencoders.field.weights import start
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.backbones.blocks.fourier import FourierFeatures, wave_vectors
from latentsmith.backbones.mixers import MIXERS, Points
from latentsmith.data.fields import FieldSamplingConfig, grid
from latentsmith.data.fields.batches import PointBatches, of_images, of_points
from latentsmith.data.fields.points import point_set
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.samplers import SAMPLERS
from latentsmith.training.task import StepContext

DRAW = of_images(FieldSamplingConfig(resolution=8, inputs=(8, 20), queries=(12, 30), asked=24))


def images(count: int = 4, side: int = 24):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def context(**how):
    return StepContext(samples_seen=0, total_samples=64, seed=0, **how)


# Points -------------------------------------------------------------------------------------------


def test_the_code_does_not_depend_on_the_order_of_the_points():
    autoencoder, (where, values) = field_autoencoder(), points()
    order = torch.randperm(where.shape[1])
    codes = autoencoder.encode_points(where, values)
    assert codes.shape == (2, 12, 2, 2)
    again = autoencoder.encode_points(where[:, order], values[:, order])
    torch.testing.assert_close(again, codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["cross", "local", "scan"])
@pytest.mark.parametrize("dims, tokens, channels", [(1, 5, 1), (2, 9, 4), (3, 8, 2), (2, 1, 3)])
def test_lines_planes_and_volumes_of_any_width(decoder, dims, tokens, channels):
    if (decoder, tokens) == ("local", 1):
        pytest.skip("a single token has no neighbours")
    autoencoder = field_autoencoder(decoder, dims=dims, tokens=tokens, channels=channels)
    given = points(30, dims=dims, channels=channels)
    codes = autoencoder.encode_points(*given)
    assert codes.shape[:2] == (2, channels * (1 + dims) + 3) and codes[0, 0].numel() == tokens
    assert autoencoder.decode_at(codes, points(11, dims=dims)[0]).shape == (2, 11, channels)
    assert autoencoder.decode_grid(codes, 6).shape == (2, channels, *[6] * dims)
    coarse = autoencoder.decode_grid(codes, 3, supersample=2)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[dims]
    torch.testing.assert_close(coarse, pool(autoencoder.decode_grid(codes, 6), 2))


def test_points_that_are_no_such_field_are_told():
    autoencoder, (where, values) = field_autoencoder(), points()
    with pytest.raises(UserError, match=r"2 dimension\(s\) with 1 number\(s\).*takes 2 and 3"):
        autoencoder.encode_points(where, values[..., :1])
    with pytest.raises(UserError, match=r"\[-1, 1\]"):
        autoencoder.encode_points(3 * where, values)
    with pytest.raises(UserError, match="NaN"):
        autoencoder.encode_points(where, values * float("nan"))
    codes = autoencoder.encode_points(where, values)
    with pytest.raises(UserError, match=r"queries of 1 dimension\(s\).*have 2"):
        autoencoder.decode_at(codes, where[..., :1])


def test_settings_that_cannot_be_are_told():
    with pytest.raises(ValueError, match=r"latent.tokens is 6.*set one of 1, 4, 9"):
        field_config(tokens=6)
    with pytest.raises(ValueError, match=r"latent.channels is 9, and 9 of a token's"):
        field_config(learned=0)
    with pytest.raises(ValueError, match="resolution 25 is no multiple of lattice 8"):
        field_config(resolution=25)
    with pytest.raises(ValueError, match="heads 3 does not divide the width 16"):
        field_config(heads=3)
    with pytest.raises(ValueError, match=r"fourier.scale 9 is above fourier.cutoff 4"):
        FourierConfig(scale=9.0, cutoff=4.0)


# Features -----------------------------------------------------------------------------------------


def test_fourier_features_are_cut_and_periodic_in_the_domain():
    waves = wave_vectors(2, 500, 4.0, 6.0, 0)
    assert waves.norm(dim=1).max() <= 6 and waves.norm(dim=1).max() > 5
    features = FourierFeatures(2, 3, scale=1.0, cutoff=4.0).double()
    x = torch.rand(5, 2, dtype=torch.float64)
    frequencies = wave_vectors(2, 3, 1.0, 4.0, 0)
    angle = 2 * torch.pi * ((x + 1) / 2 - 0.5) @ frequencies.mT  # cycles over [-1, 1], from 0
    expected = torch.cat([angle.cos(), angle.sin(), x], 1)
    torch.testing.assert_close(features(x), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_neighbours_are_the_nearest_and_fade_out(dims):
    a, b = Points(points(5, dims=dims)[0]), Points(points(9, dims=dims, seed=1)[0])
    near = Neighbours.of(a, b, 3, 0.5)
    apart = torch.cdist(a.coordinates, b.coordinates)
    expected = apart.sort(-1).values[..., :4]
    torch.testing.assert_close(near.offsets.norm(dim=-1) * 0.5, expected[..., :3])
    torch.testing.assert_close(near.weights.sum(-1), torch.ones(2, 5))
    told = near.take(b.coordinates) - a.coordinates[:, :, None]
    torch.testing.assert_close(told / 0.5, near.offsets)
    falls = expected[..., 3:] - expected[..., :3]  # nothing where it would be the next to go
    torch.testing.assert_close(near.weights, falls / falls.sum(-1, keepdim=True))


def test_a_local_decoder_hears_the_same_everywhere():
    """Moved tokens, moved query, the same hidden values: offsets, not positions."""
    gather = Gather(8, 8, 2)
    start(gather, 0)
    x, tokens = torch.randn(1, 1, 8), torch.randn(1, 6, 8)
    where = 0.4 * points(7, batch=1)[0]
    found = []
    for shift in (0.0, 0.3):
        at, others = (Points(p + shift) for p in where.split([1, 6], dim=1))
        found.append(gather(x, tokens, Neighbours.of(at, others, 3, 0.5)))
    torch.testing.assert_close(*found)


def test_nearness_is_a_gaussian_of_the_distance():
    near = Nearness(2, 0.5)
    near.reset()
    a, b = Points(points(4)[0]), Points(points(6, seed=1)[0])
    apart = (a.coordinates[:, :, None] - b.coordinates[:, None]).square().sum(-1)
    torch.testing.assert_close(near(a, b)[:, 0], -apart / (2 * 0.5**2))
    torch.testing.assert_close(near(a, b)[:, 1], -apart / (2 * 4.0**2))


# Images -------------------------------------------------------------------------------------------


def test_an_image_is_its_lattice_of_area_means():
    autoencoder, x = field_autoencoder(), images()
    codes = autoencoder.encode(x).mode()
    means = F.avg_pool2d(2 * x - 1, 3).flatten(2).mT
    torch.testing.assert_close(codes, autoencoder.encode_points(grid(8).expand(4, -1, -1), means))
    decoded = autoencoder.decode(codes)
    assert decoded.shape == x.shape
    values = autoencoder.decode_at(codes, grid(24)).mT.unflatten(2, (24, 24))
    torch.testing.assert_close(decoded, (values + 1) / 2)
    assert autoencoder.latent_shape(24) == autoencoder.latent_shape(8) == (12, 2, 2)
    with pytest.raises(UserError, match="side 20 are no multiple of the lattice of 8"):
        autoencoder.latent_shape(20)
    with pytest.raises(UserError, match="give it points"):
        field_autoencoder(dims=1).latent_shape(24)


def test_saved_and_loaded_is_equal(tmp_path):
    autoencoder = field_autoencoder()
    with pytest.raises(UserError, match="not been measured"):
        autoencoder.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    autoencoder.measure_normalizer([images()])
    folder = autoencoder.save_pretrained(tmp_path / "model")
    loaded = load_autoencoder(folder)
    assert loaded.digest() == autoencoder.digest() and not loaded.training
    with torch.no_grad():  # attention takes another path where a gradient is wanted
        assert torch.equal(loaded.encode(images()).mode(), autoencoder.encode(images()).mode())
    about = json.loads((folder / "config.json").read_text())
    about["settings"]["width"] = "wide"
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"do not fit this version.*width"):
        load_autoencoder(folder)
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="no readable field autoencoder"):
        load_autoencoder(folder)


# Training -----------------------------------------------------------------------------------------


def test_training_redraws_points_and_is_a_function_of_the_step():
    task, batch = FieldTask(field_autoencoder(), DRAW), {"image": images()}
    first, again = (task("autoencoder", batch, context())["loss"] for _ in range(2))
    other = task("autoencoder", batch, StepContext(samples_seen=4, total_samples=64, seed=0))
    assert torch.equal(first, again) and not torch.equal(first, other["loss"])


def test_errors_count_as_squares_or_as_decibels():
    autoencoder, batch = field_autoencoder(), {"image": images()}
    found = {
        how: FieldTask(autoencoder, DRAW, how)("autoencoder", batch, context())
        for how in ("squared", "decibels")
    }
    seen = DRAW(batch, context().noise("points"))
    codes = autoencoder.encode_points(seen.input_coordinates, seen.input_values)
    told = autoencoder.decode_at(codes, seen.query_coordinates)
    errors = (told - seen.query_values).square().mean((1, 2))  # one for each image
    torch.testing.assert_close(found["squared"]["loss"], errors.mean())
    torch.testing.assert_close(found["decibels"]["loss"], (errors + 5e-6).log().mean())
    for parts in found.values():
        torch.testing.assert_close(parts["psnr"], (10 * (4 / errors).log10()).mean())


def test_an_autoencoder_learns_one_field():
    task = FieldTask(field_config(planes=False).build(), DRAW)
    params = [p for o in task.objectives() for p in o.params]
    optimizer = torch.optim.Adam(params, lr=3e-3)
    ramp = grid(24).mT.unflatten(1, (24, 24))
    batch = {"image": (torch.cat([ramp, ramp[:1]]) + 1)[None] / 2}
    losses = []
    for step in range(120):
        found = task("autoencoder", batch, StepContext(step, 120, 0))["loss"]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_scattered_points_train_too_and_resume_in_their_order():
    batches = PointBatches(point_set(*points(12, batch=5)), batch_size=2, seed=3)
    first = [next(it) for it in [batches.iterate(0)] for _ in range(4)]
    again = next(batches.iterate(4))
    assert torch.equal(again["values"], first[2]["values"])
    assert {int(i) for b in first[:2] for i in b["index"]} <= set(range(5))
    sampling = FieldSamplingConfig(inputs=(4, 6), queries=(3, 5))
    task = FieldTask(field_autoencoder(), of_points(sampling))
    found = task("autoencoder", again, context())
    found["loss"].backward()
    assert found["loss"].isfinite() and task.sample_grid(again, context()) is None
    halves = [PointBatches(batches.points, 2, 3, rank, 2) for rank in (0, 1)]
    parts = [next(half.iterate(0))["index"] for half in halves]
    assert torch.equal(torch.cat(parts), first[0]["index"])


def test_noise_on_the_code_is_for_training_only():
    config = field_config()
    config.latent.noise = 0.5
    autoencoder = config.build()
    task = FieldTask(autoencoder, DRAW)
    codes = torch.randn(2, 12, 2, 2)
    noised = task._noised(codes, context())
    assert 0.1 < float((noised - codes).std() / codes.std()) < 1.0
    config.latent.noise = 0.0
    assert task._noised(codes, context()) is codes


# Flows of values ----------------------------------------------------------------------------------


def flow_config(decoder: str = "cross", told: str = "code", **settings) -> FieldFlowConfig:
    from helpers.fields import DECODER
    from latentsmith.autoencoders.field.flow import FieldNoiseConfig

    return FieldFlowConfig(
        told=told,
        decoder=DECODERS[decoder].config(depth=2, trunk=0, **DECODER[decoder]),
        mixer=MIXERS["ssd"].config(curves=["hilbert"], state=4, head=8),
        path=LinearPathConfig(),
        noise=FieldNoiseConfig(band_limit=4.0, features=8),
        **settings,
    )


@pytest.mark.parametrize("batch", [1, 2, 3])  # 1 and 3: what a wrong broadcast of t lets through
def test_the_frozen_autoencoder_does_not_move(batch):
    from helpers.fields import randomized

    autoencoder = field_autoencoder()
    before = autoencoder.digest()
    flow = randomized(flow_config().build(autoencoder.config))
    task = FieldFlowTask(flow, DRAW, autoencoder=autoencoder)
    task.train()
    assert not autoencoder.training
    optimizer = torch.optim.AdamW([p for o in task.objectives() for p in o.params], lr=1e-2)
    found = task("flow", {"image": images(batch)}, context())
    found["loss"].backward()
    assert all(p.grad is None for p in autoencoder.parameters())
    idle = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    optimizer.step()
    assert autoencoder.digest() == before


def test_the_target_is_the_paths_velocity():
    """With a decoder that says 0 the loss is |noise − data|², t per sample."""
    autoencoder = field_autoencoder()
    task = FieldFlowTask(flow_config().build(autoencoder.config), DRAW, autoencoder=autoencoder)
    batch, ctx = {"image": images(3)}, context()
    seen = task.draw(batch, ctx.noise("points"))
    weights = torch.randn((3, *task.flow.noise.shape), generator=ctx.noise("noise"))
    noise = task.flow.noise(weights, seen.query_coordinates)
    expected = (noise - seen.query_values).square().mean()
    torch.testing.assert_close(task("flow", batch, ctx)["loss"], expected)


def test_a_draw_is_one_function_at_every_resolution():
    from helpers.fields import randomized

    autoencoder = field_autoencoder()
    flow = randomized(flow_config().build(autoencoder.config))
    codes = autoencoder.encode_points(*points())
    tokens, sampler = codes.flatten(2).mT, SAMPLERS["heun"].config(steps=3)

    def draw(asked, **how):
        return flow.draw(tokens, autoencoder.anchors(), asked[None], sampler, **how)

    fine = draw(grid(24)).unflatten(1, (24, 24))[:, 1::3, 1::3].flatten(1, 2)
    torch.testing.assert_close(fine, draw(grid(8)), rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(grid(8), chunk=10), draw(grid(8)), rtol=0, atol=1e-4)
    assert (draw(grid(8), seed=1) - draw(grid(8))).abs().max() > 0.1
    second = flow.draw(
        tokens[1:], autoencoder.anchors(), grid(8)[None], sampler, indices=torch.tensor([1])
    )
    torch.testing.assert_close(second, draw(grid(8))[1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("bottleneck", [None, 4])
def test_baselines_see_the_sparse_input(bottleneck, tmp_path):
    from helpers.fields import randomized

    flow = flow_config("joint", "inputs", bottleneck=bottleneck).build(field_config())
    randomized(flow)
    task = FieldFlowTask(flow, DRAW)
    task("flow", {"image": images(2)}, context())["loss"].backward()
    idle = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    loaded = load_flow(flow.save_pretrained(tmp_path / "flow"))
    where, values = points()
    sampler = SAMPLERS["euler"].config(steps=2)
    drawn = [f.draw(values, Points(where), grid(6)[None], sampler) for f in (flow, loaded)]
    assert torch.equal(*drawn) and drawn[0].shape == (2, 36, 3)


def test_a_code_needs_an_autoencoder(tmp_path):
    with pytest.raises(UserError, match=r"give the autoencoder.*told=inputs"):
        FieldFlowTask(flow_config().build(field_config()), DRAW)
    with pytest.raises(UserError, match="holds no flow"):
        load_flow(tmp_path)
