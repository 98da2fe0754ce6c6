"""LPIPS against torchmetrics' implementation, with random trunk weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.functional.image import lpips as oracle

from latentsmith.errors import UserError
from latentsmith.losses.perceptual import LPIPS, build_trunk, load_lpips

NETS = pytest.mark.parametrize("net", ["vgg", "alex"])

# torchvision's `vgg16().features` and `alexnet().features`.
VGG = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256)}
VGG |= {14: (256, 256), 17: (512, 256)} | dict.fromkeys((19, 21, 24, 26, 28), (512, 512))
TORCHVISION = {
    "vgg": {i: (*shape, 3, 3) for i, shape in VGG.items()},
    "alex": {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    },
}


@pytest.fixture(scope="module")
def trunks(tmp_path_factory) -> dict[str, Path]:
    """Random weights saved as torchvision saves a whole classifier."""
    folder, paths = tmp_path_factory.mktemp("trunks"), {}
    for net in ("vgg", "alex"):
        torch.manual_seed(0)
        trunk = build_trunk(net)
        for parameter in trunk.parameters():  # keep activations alive through 13 layers
            if parameter.dim() == 4:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        state = {f"features.{k}": v for k, v in trunk.state_dict().items()}
        state["classifier.6.bias"] = torch.zeros(1000)
        paths[net] = folder / f"{net}.pth"
        torch.save(state, paths[net])
    return paths


@pytest.fixture(scope="module", params=["vgg", "alex"])
def lpips(request, trunks) -> LPIPS:
    return load_lpips(request.param, trunk=str(trunks[request.param]))


def pair(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, 3, size, size, generator=generator)
    return a, b


@NETS
def test_layers_have_torchvisions_names_and_shapes(net):
    state = build_trunk(net).state_dict()
    weights = {int(k.split(".")[0]): tuple(v.shape) for k, v in state.items() if "weight" in k}
    assert weights == TORCHVISION[net]
    assert {k for k in state if "bias" in k} == {f"{i}.bias" for i in weights}


def test_equals_torchmetrics(lpips, monkeypatch):
    class WithLastPool(torch.nn.Sequential):
        """torchmetrics slices torchvision's features; ours stop before the last pool."""

    monkeypatch.setattr(
        oracle, "_get_tv_model_features", lambda *_args, **_kw: WithLastPool(*lpips.trunk)
    )
    theirs = oracle._NoTrainLpips(net=lpips.net)
    a, b = pair()
    want = theirs(a, b, normalize=True).flatten()
    torch.testing.assert_close(lpips(a, b), want, rtol=1e-4, atol=1e-6)
    assert (want > 1e-3).all()


def test_the_trunk_sees_the_normalised_minus_one_to_one(lpips):
    seen = []
    handle = lpips.trunk[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    a, b = pair()
    lpips(a, b)
    handle.remove()
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], ((2 * a - 1) - shift) / scale)


def test_identical_images_are_at_distance_zero_with_finite_gradient(lpips):
    a, _ = pair()
    x = a.clone().requires_grad_()
    distance = lpips(x, a)
    assert torch.equal(distance, torch.zeros(3))
    distance.sum().backward()
    assert x.grad.isfinite().all()
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    lpips(flat, torch.ones(1, 3, 32, 32)).sum().backward()
    assert flat.grad.isfinite().all()


def test_gradient_reaches_the_images_and_nothing_else(lpips):
    a, b = pair()
    a.requires_grad_()
    lpips.train()
    assert not lpips.training
    lpips(a, b).mean().backward()
    assert (a.grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(p.requires_grad for p in lpips.parameters())
    step = a.detach() - 1e-2 * a.grad / a.grad.norm()
    assert lpips(step, b).mean() < lpips(a, b).mean()


def test_symmetric_and_gray_is_repeated(lpips):
    a, b = pair()
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    gray_a, gray_b = a[:, :1], b[:, :1]
    want = lpips(gray_a.expand(-1, 3, -1, -1), gray_b.expand(-1, 3, -1, -1))
    assert torch.equal(lpips(gray_a, gray_b), want)


def test_autocast_gives_float32(lpips):
    a, b = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = lpips(a, b)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, lpips(a, b), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(("net", "smallest"), [("vgg", 16), ("alex", 31)])
def test_smallest_image(trunks, net, smallest):
    lpips = load_lpips(net, trunk=str(trunks[net]))
    a, b = pair(smallest)
    assert lpips(a, b).isfinite().all()
    with pytest.raises(UserError, match=f"images of {smallest} x {smallest} pixels or more"):
        lpips(a[..., 1:], b[..., 1:])


def test_weights_load_from_safetensors_and_from_features_alone(trunks, tmp_path):
    state = torch.load(trunks["alex"], weights_only=True)
    features = {k.removeprefix("features."): v for k, v in state.items() if "features" in k}
    save_file(features, tmp_path / "alex.safetensors")
    a = load_lpips("alex", trunk=str(trunks["alex"]))
    b = load_lpips("alex", trunk=str(tmp_path / "alex.safetensors"))
    assert a.digest() == b.digest()


def test_torch_hubs_cache_is_found(trunks, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(trunks["alex"].read_bytes())
    assert load_lpips("alex").net == "alex"


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for trunk in (None, str(tmp_path / "vgg.pth")):
        with pytest.raises(UserError) as error:
            load_lpips("vgg", trunk=trunk)
        for part in ("vgg16-397923af.pth", "timm/vgg16.tv_in1k", "perceptual weight to 0"):
            assert part in str(error.value)


def test_another_nets_weights_and_damaged_files_are_refused(trunks, tmp_path):
    with pytest.raises(UserError, match="do not fit alex"):
        load_lpips("alex", trunk=str(trunks["vgg"]))
    (tmp_path / "vgg.pth").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot read weights"):
        load_lpips("vgg", trunk=str(tmp_path / "vgg.pth"))
    with pytest.raises(UserError, match="holds no LPIPS linear weights"):
        load_lpips("vgg", trunk=str(trunks["vgg"]), linear=str(trunks["vgg"]))


def test_missing_linear_weights_name_the_package(trunks, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torchmetrics"):
        load_lpips("vgg", trunk=str(trunks["vgg"]))
