"""What the code is good for: new fields, the way between two, and what a probe reads off it."""

from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.data.loader import Loader
from latentsmith.encoders.base import Encoder
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.field_paths import path_shape
from latentsmith.metrics.interpolation import path_grid
from latentsmith.metrics.intervals import bootstrap_mean, percentiles
from latentsmith.metrics.path_length import mean_speed, speed_cv
from latentsmith.metrics.registry import METRICS
from latentsmith.recipes.field.config import EvaluateConfig, FieldConfig
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.many import Score, made_latents
from latentsmith.sampling.score import reference_features, score_images
from latentsmith.training.team import Team
from latentsmith.utils.distributed import gather_rows

STEPS = 11
"""Points of a path, both ends among them."""
SHOWN = 32
"""Generated images kept for the report's grid."""


def measure_latent(
    cfg: FieldConfig,
    inputs: Inputs,
    team: Team,
    generator: LatentGenerator,
    encoder: Encoder,
    codes: Tensor,
    stamp: Stamp,
) -> LatentCard:
    """Generation, interpolation and probe of one code.

    Args:
        generator: the latent flow, with its autoencoder.
        encoder: in whose features images are compared.
        codes: of the held-out sparse points [n, z, h, w].
    """
    assert isinstance(generator.autoencoder, FieldAutoencoder)
    real = _features(encoder, (inputs.truth + 1) / 2, cfg.evaluate.batch_size)
    card = _generated(cfg, team, generator, (encoder, real), stamp)
    card.extend(_paths(cfg, generator.autoencoder, (encoder, real), codes, stamp))
    return card.extend(_probe(cfg, inputs, generator.autoencoder, codes, stamp))


Seen = tuple[Encoder, Tensor]
"""An encoder, and its features [n, D] of the held-out images."""


@torch.no_grad()
def _features(encoder: Encoder, images: Tensor, batch_size: int) -> Tensor:
    """Of images [n, C, H, W] in [0, 1], [n, D] on the CPU."""
    device = next(encoder.parameters()).device
    parts = images.clamp(0, 1).split(batch_size)
    return torch.cat([encoder.vector(part.to(device)).cpu() for part in parts])


@torch.no_grad()
def _generated(
    cfg: FieldConfig, team: Team, generator: LatentGenerator, seen: Seen, stamp: Stamp
) -> LatentCard:
    """Images from noise against held-out ones."""
    e = cfg.evaluate
    spaces = [reference_features(*seen)]
    how = Score(e.generated, e.batch_size, e.sampler, e.guidance, e.resamples)
    made = replace(stamp, count=e.generated, ema=bool(generator.info.training.get("ema")))
    with made_latents(generator, how, team) as latents:
        images = generator.decode(latents, batch_size=e.batch_size)
        card = score_images(images, spaces, how, team, stamp=made)
    card.figures["generated"] = gather_rows(images)[:SHOWN].clamp(0, 1)
    return card


@torch.no_grad()
def _paths(
    cfg: FieldConfig, autoencoder: FieldAutoencoder, seen: Seen, codes: Tensor, stamp: Stamp
) -> LatentCard:
    """From one held-out field's code to another's, decoded; beside the blend of their pixels."""
    card, count = LatentCard(), min(cfg.evaluate.paths, len(codes) // 2)
    device = next(autoencoder.parameters()).device
    starts, ends = (part.to(device) for part in codes[: 2 * count].split(count))
    frames = path_grid(autoencoder.decode, starts, ends, steps=STEPS).cpu()
    shape = path_shape(2 * frames - 1)
    made = replace(stamp, count=count, detail={**stamp.detail, "steps": STEPS})
    for name in ("unevenness", "bend", "middle_gradient", "blend_gradient"):
        values, resamples = getattr(shape, name), cfg.evaluate.resamples
        draws = bootstrap_mean(values, resamples, 0) if resamples and len(values) > 1 else None
        card.measurements.append(
            Measurement(
                f"path_{name}", float(values.mean()), made, draws=draws, metric=f"path_{name}",
                interval=None if draws is None else percentiles(draws),
            )
        )  # fmt: skip
    where = torch.linspace(0, 1, STEPS)[None, :, None, None, None]
    blend = torch.lerp(frames[:, :1], frames[:, -1:], where)
    for way, images in (("codes", frames), ("pixels", blend)):
        _seen_path(card, images, seen, way, cfg.evaluate, made)
    card.figures |= {"path": frames[0].clamp(0, 1), "blend": blend[0].clamp(0, 1)}
    return card


def _seen_path(
    card: LatentCard, frames: Tensor, seen: Seen, way: str, e: EvaluateConfig, stamp: Stamp
) -> None:
    """An encoder's view of paths [P, S, C, H, W]: how long, how even, and how far their middles
    are from real images."""
    encoder, real = seen
    found = _features(encoder, frames.flatten(0, 1), e.batch_size).unflatten(0, frames.shape[:2])
    speeds = found.double().diff(dim=1).square().mean(2) * (frames.shape[1] - 1) ** 2  # [P, S - 1]
    made = replace(stamp, space=encoder.name)
    for metric, values in (
        ("path_length", mean_speed(speeds)),
        ("path_length_cv", speed_cv(speeds)),
    ):
        card.measurements.append(
            METRICS[metric].from_samples(
                values, stamp=made, suffix=f"{way}_{encoder.name}", resamples=e.resamples
            )
        )
    middles = found[:, frames.shape[1] // 2]
    card.add(
        "off_manifold", middles, real, stamp=stamp, space=encoder.name, label=way,
        resamples=e.resamples,
    )  # fmt: skip


@torch.no_grad()
def _probe(
    cfg: FieldConfig, inputs: Inputs, autoencoder: FieldAutoencoder, codes: Tensor, stamp: Stamp
) -> LatentCard:
    """Accuracy of a linear probe of the codes, where images have classes."""
    card = LatentCard()
    if inputs.val.classes is None or len(inputs.val.classes) < 2:
        return card
    device, parts = next(autoencoder.parameters()).device, list[tuple[Tensor, Tensor]]()
    loader = Loader(inputs.probe, inputs.measured, batch_size=64, seed=0, shuffle=False)
    for batch in loader.epoch():
        found = autoencoder.encode(batch["image"].to(device)).mode()
        parts.append((found.flatten(1).cpu(), batch["label"]))
    learned, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    held_out = Loader(inputs.val, inputs.measured, batch_size=64, seed=0, shuffle=False)
    wanted = torch.cat([batch["label"] for batch in held_out.epoch()])
    card.add(
        "linear_probe", learned, labels, codes.flatten(1), wanted, stamp=stamp, label="code",
        resamples=cfg.evaluate.resamples,
    )  # fmt: skip
    return card
