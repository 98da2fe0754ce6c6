"""Networks without memory: what they are, what they answer, and what they leave behind."""

import pytest
import torch
from torch import nn

from latentsmith.backbones.blocks.hilbert import _table
from latentsmith.errors import UserError
from latentsmith.planning.fake import emptied, without_memory
from latentsmith.planning.watch import Watch


def test_a_network_on_meta_becomes_fake_in_place():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[0].bias.requires_grad_(False)
    held = list(net.parameters())
    net.tied = net[0].weight
    with without_memory():
        emptied(net)
        assert all(a is b for a, b in zip(held, net[:2].parameters(), strict=True))
        assert net.tied is net[0].weight
        assert [p.requires_grad for p in held] == [True, False, True, True]
        assert all(isinstance(p, nn.Parameter) and p.device.type == "cpu" for p in held)
        net[:2](torch.empty(3, 4)).sum().backward()
        assert held[0].grad is not None and held[1].grad is None


def test_a_terabyte_takes_none():
    with without_memory(), Watch() as seen:
        x = torch.empty(1 << 38)
    assert seen.peak == x.numel() * 4


def test_checks_find_no_fault():
    with without_memory():
        x, labels = torch.empty(4), torch.zeros(4, dtype=torch.int64)
        assert bool(x.isfinite().all()) and not bool(x.isnan().any())
        assert not bool(((labels < 0) | (labels > 3)).any())
        assert (float(x.sum()), int(labels[0])) == (0.0, 0)
        assert len((x > 3).nonzero()) == 0
        assert x.masked_select(x > 3).shape == (4,)


def test_shapes_that_depend_on_numbers_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="shapes depend on the numbers"), without_memory():
        torch.empty(4).unique()


def test_the_global_generator_goes_on_as_if_nothing_had_been():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with without_memory():
        torch.manual_seed(1)
        nn.Linear(4, 4)
    assert torch.equal(torch.rand(3), expected)


def test_tables_made_while_planning_are_real():
    """They are cached for the process: a fake one would break the next real run."""
    _table.__wrapped__.cache_clear() if hasattr(_table.__wrapped__, "cache_clear") else None
    with without_memory():
        _table(2, 1, torch.device("cpu"))
    table = _table(2, 1, torch.device("cpu"))
    assert type(table) is torch.Tensor and int(table.max()) > 0
