"""FLOPs, bytes alive and whose they are, against what can be counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latentsmith.planning.fake import without_memory
from latentsmith.planning.watch import REST, Watch, size


def flops(seen: Watch) -> tuple[int, int]:
    return tuple(sum(op.flops for op in seen.ops if op.backward is way) for way in (False, True))  # type: ignore[return-value]


def test_a_product_of_matrices_is_two_flops_a_number_and_twice_that_backwards():
    with without_memory():
        layer, x = nn.Linear(8, 32, bias=False), torch.empty(16, 8, requires_grad=True)
        with Watch() as seen:
            layer(x).sum().backward()
    assert flops(seen) == (2 * 16 * 8 * 32, 2 * 2 * 16 * 8 * 32)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_the_same_for_each_gradient_also_in_groups(groups, stride):
    with without_memory():
        layer = nn.Conv2d(8, 16, 3, padding=1, stride=stride, groups=groups, bias=False)
        x = torch.empty(2, 8, 12, 12, requires_grad=True)
        with Watch() as seen:
            layer(x).sum().backward()
    forward = 2 * 2 * 16 * (12 // stride) ** 2 * (8 // groups) * 9
    assert flops(seen) == (forward, 2 * forward)


def test_attention_is_two_products_and_four_backwards_and_keeps_no_square_matrix():
    heads, length, width = 4, 512, 16
    with without_memory():
        q = torch.empty(1, heads, length, width, requires_grad=True)
        with Watch() as seen:
            out = F.scaled_dot_product_attention(q, q, q)
            kept = seen.now
            out.sum().backward()
    product = 2 * heads * length * length * width
    assert flops(seen) == (2 * product, 4 * product)
    assert kept < heads * length * length, "less than a byte a pair"


def test_work_backwards_belongs_to_the_part_whose_forward_made_it():
    with without_memory():
        first, second = nn.Linear(8, 8), nn.Linear(8, 2)
        x = torch.empty(4, 8)
        with Watch({"first": first, "second": second}) as seen:
            y = first(x) @ torch.empty(8, 8)
            second(y).sum().backward()
    found = {(op.label, op.backward): 0 for op in seen.ops}
    for op in seen.ops:
        found[op.label, op.backward] += op.flops
    one, two = 2 * 4 * 8 * 8, 2 * 4 * 8 * 2
    assert found["first", False] == one and found["first", True] == one  # x takes no gradient
    assert found["second", False] == two and found["second", True] == 2 * two
    assert found[REST, False] == one and found[REST, True] == one


def test_recomputed_work_counts_as_backward_of_its_part():
    from torch.utils.checkpoint import checkpoint

    with without_memory():
        layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        x = torch.empty(4, 8, requires_grad=True)
        with Watch({"layer": layers}) as seen:
            checkpoint(layers, x, use_reentrant=False).sum().backward()
    one = 2 * 4 * 8 * 8
    # the last layer's output is not needed, so it is not made again
    assert flops(seen) == (2 * one, 4 * one + one)
    assert {op.label for op in seen.ops if op.flops} == {"layer"}


def test_bytes_are_alive_as_long_as_their_tensor():
    with without_memory(), Watch() as seen:
        a = torch.empty(1000)
        b = a.exp()
        assert seen.now == 8000
        view = b.view(10, 100)
        assert seen.now == 8000, "a view has no memory of its own"
        del a
        assert seen.now == 4000
        del b
        assert seen.now == 4000, "its view holds it"
        del view
    assert (seen.now, seen.peak) == (0, 8000)


def test_real_and_fake_tensors_count_alike():
    def step() -> Watch:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        x = torch.rand(2, 3, 8, 8)
        with Watch({"net": net}) as seen:
            net(x).square().mean().backward()
        return seen

    real = step()
    with without_memory():
        fake = step()
    assert fake.ops == real.ops and fake.peak == real.peak


def test_an_expanded_tensor_moves_only_what_it_has():
    with without_memory():
        x = torch.empty(1, 100).expand(50, 100)
        with Watch() as seen:
            _ = x + 1
    assert seen.ops[-1].moved == 400 + 50 * 100 * 4


def test_shared_storage_has_its_size_once():
    x = torch.zeros(10)
    assert size([x, x.view(2, 5), torch.zeros(3)]) == 40 + 12
