"""One value for each thing a metric may ask for, for tests that run over all metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latentsmith.data.shapes import ShapesConfig
from latentsmith.metrics import METRICS
from latentsmith.metrics.edit_accuracy import edit_tables
from latentsmith.metrics.shapes_judge import scene_tables

N = 48
"""Samples."""


def _draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _shapes() -> dict:
    """Scenes found, others asked, edits of the others, and edits that end in those found."""
    data = ShapesConfig(train_count=2 * N).build("train", Path())
    edits = data.edit_triples(range(N))
    found = scene_tables([edit.target for edit in edits])
    return {
        "found_scenes": found,
        "asked_scenes": scene_tables(data.scenes(range(N, 2 * N))),
        "edits": edit_tables(data.edit_triples(range(N, 2 * N))),
        "edits_done": edit_tables(edits),
    }


def _world(size: int = 16) -> dict:
    """One value for each thing a metric may ask for; rows belong together."""
    maps = _draw(N, 3, 8, 8, seed=0)
    labels = torch.arange(N) % 3
    images = _draw(N, 3, size, size, seed=2).sigmoid()
    return {
        "maps": maps,
        "latents": maps.flatten(1)[:, :20],
        "reference": maps.flatten(1)[:, :12] + _draw(N, 12, seed=1),
        "labels": labels,
        "images": images,
        "recon": images + 0.1 * _draw(N, 3, size, size, seed=3),
        "features": _draw(N, 6, seed=4),
        "features_ref": _draw(N, 6, seed=5) + 0.2,
        "train": _draw(N, 6, seed=6) + labels[:, None],
        "train_labels": labels,
        "test": _draw(N, 6, seed=7) + labels[:, None],
        "test_labels": labels,
        "encode": lambda x: torch.nn.functional.avg_pool2d(x, 2).roll(1, -1),
        "decode": lambda z: z.sigmoid(),
        "extract": lambda x: x.flatten(1)[:, :6],
        "tokens": _draw(N, 5, 4, seed=8),
        "tokens_ref": _draw(N, 5, 4, seed=9) + 0.5,
        "predicted_labels": _draw(N, 6, 7, seed=10).mul(2).abs().long(),
        "pixel_labels": _draw(N, 6, 7, seed=11).mul(2).abs().long(),
        "field": _draw(N, 2, 6, 7, seed=12).tanh(),
        "field_ref": _draw(N, 2, 6, 7, seed=13).tanh(),
        "known": _draw(N, 42, seed=14) > 0.5,
        "field_draws": _draw(N, 3, 2, 6, 7, seed=20).tanh(),
        "ids": _draw(N, 10, seed=15).mul(3).abs().long() + 1,
        "ids_ref": _draw(N, 10, seed=16).mul(3).abs().long() + 1,
        "masked": _draw(N, 10, seed=17) > 0,
        "nll": _draw(N, 3, seed=18).abs(),
        "nll_ref": _draw(N, 3, seed=19).abs() + 1,
        "distance": lambda a, b: (a - b).square().flatten(1).mean(1),
        **_shapes(),
    }


def metric_inputs(name: str, **changed: Callable[[dict], Any]) -> list:
    """What the metric ``name`` takes; ``changed``: a name → made of all others."""
    world = _world(size=176 if name == "ms_ssim" else 16)
    if name == "ms_ssim":
        world |= {key: world[key][:4] for key in ("images", "recon")}
    world |= {key: change(world) for key, change in changed.items()}
    return [world[key] for key in METRICS[name].inputs]
