"""What the code is good for: new fields, the way between two, and what a probe reads off it."""

from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.data.loader import Loader
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.field_paths import path_shape
from latentsmith.metrics.interpolation import path_grid
from latentsmith.metrics.intervals import bootstrap_mean, percentiles
from latentsmith.recipes.field.config import FieldConfig
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
    codes: Tensor,
    stamp: Stamp,
) -> LatentCard:
    """Generation, interpolation and probe of one code.

    Args:
        generator: the latent flow, with its autoencoder.
        codes: of the held-out sparse points [n, z, h, w].
    """
    assert isinstance(generator.autoencoder, FieldAutoencoder)
    card = _generated(cfg, inputs, team, generator, stamp)
    card.extend(_paths(cfg, generator.autoencoder, codes, stamp))
    return card.extend(_probe(cfg, inputs, generator.autoencoder, codes, stamp))


@torch.no_grad()
def _generated(
    cfg: FieldConfig, inputs: Inputs, team: Team, generator: LatentGenerator, stamp: Stamp
) -> LatentCard:
    """Images from noise against held-out ones."""
    e = cfg.evaluate
    encoder = e.encoder.build().to(team.device)
    real = (inputs.truth + 1) / 2
    rows = [encoder.vector(x.to(team.device)).cpu() for x in real.split(e.batch_size)]
    spaces = [reference_features(encoder, torch.cat(rows))]
    how = Score(e.generated, e.batch_size, e.sampler, e.guidance, e.resamples)
    made = replace(stamp, count=e.generated, ema=bool(generator.info.training.get("ema")))
    with made_latents(generator, how, team) as latents:
        images = generator.decode(latents, batch_size=e.batch_size)
        card = score_images(images, spaces, how, team, stamp=made)
    card.figures["generated"] = gather_rows(images)[:SHOWN].clamp(0, 1)
    return card


@torch.no_grad()
def _paths(
    cfg: FieldConfig, autoencoder: FieldAutoencoder, codes: Tensor, stamp: Stamp
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
    blend = torch.lerp(
        frames[:1, :1], frames[:1, -1:], torch.linspace(0, 1, STEPS)[None, :, None, None, None]
    )
    card.figures |= {"path": frames[0].clamp(0, 1), "blend": blend[0].clamp(0, 1)}
    return card


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
