"""The GPU that is not there refuses what a GPU refuses."""

import copy

import pytest
import torch
from torch import nn

from helpers.pretend_cuda import pretend_cuda


@pytest.fixture(autouse=True)
def there():
    with pretend_cuda():
        yield


def test_tensors_are_where_they_are_put():
    x = torch.zeros(2, 3, device="cuda")
    assert x.is_cuda and x.device == torch.device("cuda", 0) and (x + 1)[0].device == x.device
    assert torch.zeros(2).device.type == "cpu" and x.cpu().device.type == "cpu"
    assert torch.zeros_like(x).is_cuda and x.new_ones(3).is_cuda and x.to(torch.float64).is_cuda
    assert torch.arange(3, device=x.device).is_cuda and torch.zeros(1).to(x).is_cuda
    assert copy.deepcopy(nn.Parameter(x)).is_cuda and x.is_cuda


def test_two_devices_in_one_operation():
    x, w = torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3)
    for work in (lambda: x + w, lambda: w @ x.T, lambda: torch.cat([x, w]), lambda: w * x.sum()):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            work()
    with pytest.raises(RuntimeError, match="same device"):
        w[torch.tensor([0], device="cuda")]
    assert x[torch.tensor([0])].is_cuda and (x * torch.tensor(2.0)).is_cuda
    assert w.copy_(x).device.type == "cpu"


def test_draws_and_arrays():
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.randn(3, generator=torch.Generator(), device="cuda")
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.zeros(3, device="cuda").normal_(generator=torch.Generator())
    with pytest.raises(RuntimeError, match="'cpu' device type for generator"):
        torch.randn(3, generator=torch.Generator("cuda"))
    assert torch.randn(3, generator=torch.Generator("cuda"), device="cuda").is_cuda
    with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
        torch.zeros(3, device="cuda").numpy()


def test_a_network_trains_there_and_gradients_go_back_where_a_tensor_was():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 2))
    net.to("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    net(x.cuda()).square().mean().backward()
    optimizer.step()
    assert all(p.is_cuda and p.grad.is_cuda for p in net.parameters())
    assert x.grad.device.type == "cpu"
    with pytest.raises(RuntimeError, match="same device"):
        net(x)
