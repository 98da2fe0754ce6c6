"""Networks for tests."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentsmith.backbones.dit import DiTConfig, SiTConfig

PLAIN = Path(__file__).parents[2] / "benchmarks" / "plain_dit.py"


def plain_dit(**settings: Any) -> Any:
    """The published network written the plain way, which is also what benchmarks compare with;
    side 8, patch 2, 4 channels, width 24, 2 blocks, 3 heads, 5 classes unless told."""
    spec = importlib.util.spec_from_file_location("plain_dit", PLAIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defaults = {"side": 8, "patch": 2, "channels": 4, "width": 24, "depth": 2, "heads": 3}
    return module.PlainDiT(**(defaults | {"classes": 5, "learn_sigma": True} | settings))


def randomized(network: nn.Module, seed: int = 0, spread: float = 0.2) -> Any:
    """The network with every learned number drawn anew: nothing hides behind a zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                draw = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
                parameter.copy_(draw * spread)
    return network


def tiny(kind: str = "sit", **settings: Any) -> SiTConfig | DiTConfig:
    """Settings of a network of 2 blocks, width 24, 3 heads."""
    config = DiTConfig if kind == "dit" else SiTConfig
    return config(**({"width": 24, "depth": 2, "heads": 3} | settings))
