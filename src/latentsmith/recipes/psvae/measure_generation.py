"""What is generated and edited in a latent space: as asked, and where real features are?"""

import torch
from torch import Tensor

from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.data.edited import edited
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.shapes_card import measure_attributes, measure_edits
from latentsmith.recipes.psvae.config import Arm
from latentsmith.recipes.psvae.yardsticks import Yardsticks
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.many import Score, made_latents
from latentsmith.sampling.score import score_images
from latentsmith.utils.distributed import gather_rows

SHOWN = 32
"""Images kept for the report's grids."""


def measure_generated(y: Yardsticks, generator: LatentGenerator, arm: Arm) -> LatentCard:
    """Images from held-out captions: distance to real ones, attributes, place of their features."""
    e = y.cfg.evaluate
    how = Score(e.generated, e.batch_size, e.sampler, e.guidance, e.resamples)
    ema = bool(generator.info.training.get("ema"))
    stamp = Stamp(data=y.inputs.val.name, count=e.generated, ema=ema, detail={"arm": arm})
    numbers = torch.arange(e.generated) % len(y.inputs.val)
    condition = y.inputs.held_out_texts.captions.condition(numbers)
    condition["text"] = condition["text"].float()
    with made_latents(generator, how, y.team, condition=condition) as latents:
        images = generator.decode(latents, batch_size=e.batch_size)
        card = score_images(images, y.spaces, how, y.team, stamp=stamp, clip=y.clip)
        latents, images = gather_rows(latents), gather_rows(images)
        _places(card, y, generator, latents, images, stamp)
    if y.judge is not None:
        asked = y.shown(numbers)
        card.extend(measure_attributes(y.judge, images, *asked, stamp=stamp, resamples=e.resamples))
    return card


@torch.no_grad()
def _places(
    card: LatentCard,
    y: Yardsticks,
    generator: LatentGenerator,
    latents: Tensor,
    images: Tensor,
    stamp: Stamp,
) -> None:
    """Token by token, how far generated images lie from real ones to the frozen encoder; and the
    generated features themselves, where a latent gives features."""
    e, device = y.cfg.evaluate, y.team.device
    seen = torch.cat([y.tokens(x) for x in images.split(e.batch_size)])
    card.add("off_manifold", seen, y.bank, stamp=stamp, label="images", resamples=e.resamples)
    autoencoder = generator.autoencoder
    if isinstance(autoencoder, SemanticAutoencoder):
        made = torch.cat(
            [autoencoder.decode_features(z.to(device)).cpu() for z in latents.split(e.batch_size)]
        )
        made = made * autoencoder.feature_std.cpu() + autoencoder.feature_mean.cpu()
        card.add("off_manifold", made, y.bank, stamp=stamp, label="features", resamples=e.resamples)


def measure_edited(y: Yardsticks, generator: LatentGenerator, arm: Arm) -> LatentCard:
    """Held-out images changed as their instructions say; those whose images cannot be read are left
    out."""
    e, inputs = y.cfg.evaluate, y.inputs
    numbers, source = _sources(y, generator)
    how = Score(len(numbers), e.batch_size, e.sampler, e.edit_guidance, e.resamples)
    told = _told(y, numbers) | {"source": source}
    with made_latents(generator, how, y.team, condition=told, numbers=numbers) as made:
        images = gather_rows(generator.decode(made, batch_size=e.batch_size))
    card = LatentCard()
    if y.judge is not None and y.shapes is not None:
        dataset, rows = y.shapes
        stamp = Stamp(
            data=inputs.val.name,
            count=len(numbers),
            seed=0,
            sampler=e.sampler.kind,
            steps=getattr(e.sampler, "steps", None),
            detail={"arm": arm, "guidance": e.edit_guidance.kind},
        )
        triples = dataset.edit_triples(rows[numbers])
        card.extend(measure_edits(y.judge, images, triples, stamp=stamp, resamples=e.resamples))
    few = numbers[:SHOWN].tolist()
    for name, side in (("given", inputs.val), ("wanted", edited(inputs.val))):
        card.figures[name] = torch.stack([inputs.transform(side[n]["image"]) for n in few])
    card.figures["edited"] = images[:SHOWN]
    return card


def _sources(y: Yardsticks, generator: LatentGenerator) -> tuple[Tensor, Tensor]:
    """Numbers of held-out edits whose both images are readable [n], and the normalized latents of
    what is to be edited [n, C, h, w]."""
    assert generator.autoencoder is not None
    stores = y.inputs.latents(generator.autoencoder, y.inputs.val)
    store, lost = stores[""], {row for some in stores.values() for row in some.unreadable}
    good = [row for row in range(len(store)) if row not in lost][: y.cfg.evaluate.generated]
    rows = torch.tensor(good, dtype=torch.int64)
    field = "latent" if "latent" in store.manifest.fields else "mean"
    raw = store.gather(rows, fields=[field])[field].float()
    return rows, generator.normalizer.normalize(raw)


def _told(y: Yardsticks, rows: Tensor) -> dict[str, Tensor]:
    """Instructions of held-out edits."""
    table = y.inputs.held_out_texts.instructions
    assert table is not None
    told = table.condition(rows)
    return told | {"text": told["text"].float()}
