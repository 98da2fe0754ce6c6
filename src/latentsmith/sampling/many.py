"""Latents of as many samples as a score takes: made by all processes, in shards of a store.

A process takes the next shard that nobody has begun, so that a slow one holds up nobody, and a
score that was stopped goes on with the shards that are missing. Weights, sampler, noise and what is
asked for make the store's fingerprint: another generator's latents are never taken for these.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.saved import to_dict
from latentsmith.data.order import rank_slice
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.stores.base import FeatureStore, FieldSpec, StoreManifest
from latentsmith.stores.contents import Contents, fill
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root, forget
from latentsmith.utils.counter import Counter
from latentsmith.utils.digest import state_digest

SHARDS = 512
"""At most about so many: each takes two small files and a few milliseconds."""


@dataclass(frozen=True)
class Score:
    """How a generator is scored: number i always starts from the same noise and class.

    Attributes:
        count: images generated.
        batch_size: at once.
        resamples: behind each interval.
    """

    count: int
    batch_size: int
    sampler: SamplerConfig
    guidance: GuidanceConfig
    resamples: int


@contextmanager
def made_latents(
    generator: LatentGenerator,
    how: Score,
    team: Team,
    *,
    condition: Condition | None = None,
    numbers: Tensor | None = None,
) -> Iterator[Tensor]:
    """This process's part (`rank_slice`) of ``how.count`` raw latents [n, C, h, w], float32.

    All processes call this, and make all of them together. They are kept in the user's cache until
    the block is through, so that one that is stopped inside need not make them again. A latent that
    is not finite is NaN.

    Args:
        condition: what each is made from [count, …] by name, for generators without classes.
        numbers: of the noise of each, int64 [count]; None: 0, 1, 2, …
    """
    numbers = torch.arange(how.count) if numbers is None else numbers
    contents = _contents(generator, how, numbers, condition)
    path = cache_root() / "stores" / f"generated-{contents.manifest.fingerprint()[:16]}"
    per_shard = how.batch_size * -(-how.count // (SHARDS * how.batch_size))
    with Counter("generating", how.count) as count:
        store = fill(
            path,
            contents,
            batch_size=how.batch_size,
            rows_per_shard=per_shard,
            rank=team.rank,
            world_size=team.world_size,
            progress=lambda done, _: count(done * team.world_size),
        )
    mine = _read(store, rank_slice(how.count, team.rank, team.world_size))
    if team.world_size > 1:
        dist.barrier()  # all have read
    yield mine
    team.on_main(lambda: _remove(path))


def _contents(
    generator: LatentGenerator, how: Score, numbers: Tensor, condition: Condition | None
) -> Contents:
    """What the store holds, and all that decides it."""
    texts = None if generator.texts is None else dict(generator.texts.named_buffers())
    given = {"numbers": numbers, **(condition or {})}
    encoder = {
        "kind": "generated",
        "weights": state_digest(generator.backbone.state_dict()),
        "path": to_dict(generator.info.path),
        "pairing": generator.info.pairing.to_json(),
        "texts": None if texts is None else state_digest(texts),
    }
    extra = {
        "sampler": to_dict(how.sampler),
        "guidance": to_dict(how.guidance),
        "batch_size": how.batch_size,
    }
    count = len(numbers)
    manifest = StoreManifest(
        "latents",
        {"latent": FieldSpec(tuple(generator.backbone.latent_shape), "float32")},
        count,
        encoder,
        {"name": "noise", "digest": state_digest(given), "count": count},
        extra=extra,
    )

    def compute(rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        found = generator.sample_latents(
            numbers[rows],
            sampler=how.sampler,
            guidance=how.guidance,
            seed=0,
            batch_size=how.batch_size,
            condition=None if condition is None else {k: v[rows] for k, v in condition.items()},
        )
        good = found.flatten(1).isfinite().all(1)
        return {"latent": found[good]}, dict.fromkeys(rows[~good].tolist(), "not finite")

    return Contents(manifest, [str(row) for row in range(count)], compute)


def _read(store: FeatureStore, part: slice) -> Tensor:
    """Rows of the store in memory; NaN where there is nothing finite."""
    wanted = range(part.start, part.stop)
    good = torch.tensor([r for r in wanted if r not in store.unreadable], dtype=torch.int64)
    found = torch.full((len(wanted), *store.manifest.fields["latent"].shape), float("nan"))
    if len(good):
        found[good - part.start] = store.gather(good, fields=["latent"])["latent"]
    store.close()
    return found


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    forget(path)
