"""How near is a U-Net to the teacher, what do its features tell, what does it generate?

One card for each network, on the same held-out images. Names end in the noise level of the
features: ``linear_probe_t0.2``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.encoders.denoiser import DenoiserConfig, DenoiserEncoder
from latentsmith.losses.alignment import teacher_grid, to_grid
from latentsmith.losses.manifold import pooled
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.linear_map import LinearMap
from latentsmith.metrics.registry import METRICS
from latentsmith.metrics.teacher import token_cosine_per_sample
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.inputs import TEACHER, Inputs
from latentsmith.sampling.clip_pairs import ClipPairs
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.score import Score, Spaces, reference_features, score_generator
from latentsmith.stores.text_table import TextTable
from latentsmith.stores.texts import stored_texts
from latentsmith.training.task import Batch
from latentsmith.training.team import Team

LINEAR, HEAD = "linear", "head"
"""What stands between features and teacher: the best linear map, or the trained alignment head."""


PAIRED = 2048
"""Images behind what is measured of pairs, at most: memory and time grow with the square."""


def _few(rows: Tensor) -> Tensor:
    """At most `PAIRED` of the rows, evenly over all: data sets may be sorted by class."""
    return rows[:: -(-len(rows) // PAIRED)]


def at(t: float) -> str:
    """The end of a measurement's name: the noise level of the features."""
    return f"t{t:g}"


@dataclass
class _Seen:
    """What is kept of N held-out images: [N, …] tensors, once `joined`."""

    vector: list[Tensor] = field(default_factory=list)
    teacher: list[Tensor] = field(default_factory=list)
    label: list[Tensor] = field(default_factory=list)
    pooled: dict[str, list[Tensor]] = field(default_factory=dict)
    cosine: dict[str, list[Tensor]] = field(default_factory=dict)
    chance: dict[str, list[Tensor]] = field(default_factory=dict)


class Measurer:
    """Measures generators on the caches of one run."""

    def __init__(self, cfg: UREPAConfig, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team

    def card(self, generator: LatentGenerator, arm: str) -> LatentCard:
        """Everything about one network.

        Args:
            arm: its name, for the stamps.
        """
        card = LatentCard()
        for t in self.cfg.evaluate.times:
            card.extend(self._features(generator, arm, t))
        return card.extend(self._generation(generator, arm))

    def teacher_card(self) -> LatentCard:
        """What the teacher's own tokens tell: what alignment could reach at best."""
        card, e = LatentCard(), self.cfg.evaluate
        if self.inputs.train.classes is None:
            return card
        known = [self._told(batch) for batch in self.inputs.probed(e.batch_size)]
        seen = [self._told(batch) for batch in self.inputs.measured(e.batch_size).epoch()]
        given = [torch.cat(parts) for rows in (known, seen) for parts in zip(*rows, strict=True)]
        detail = {"arm": TEACHER, "teacher": self._teacher}
        stamp = Stamp(data=self.inputs.val.name, count=len(given[2]), detail=detail)
        for probe in ("linear_probe", "knn_probe"):
            card.add(probe, *given, stamp=stamp, label=TEACHER, resamples=e.resamples)
        return card

    @staticmethod
    def _told(batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's mean token [B, D] and the label [B] of each image of a batch."""
        return batch[f"{TEACHER}/tokens"].float().mean(1), batch["label"]

    # Features -------------------------------------------------------------------------------------

    def _features(self, generator: LatentGenerator, arm: str, t: float) -> LatentCard:
        config = DenoiserConfig(tap=self.cfg.tap, time=t)
        encoder = DenoiserEncoder(generator, config=config).to(self.team.device)
        known, labels, readout = self._learn(encoder)
        seen = self._look(encoder, generator, readout)
        card, resamples = LatentCard(), self.cfg.evaluate.resamples
        stamp = Stamp(
            data=self.inputs.val.name,
            count=sum(map(len, seen.vector)),
            ema=bool(generator.info.training.get("ema")),
            detail={"arm": arm, "time": t, "tap": self.cfg.tap, "teacher": self._teacher},
        )
        for way in seen.cosine:
            self._nearness(card, seen, way, t, stamp)
        teacher = _few(torch.cat(seen.teacher))
        pairs = replace(stamp, count=len(teacher))
        for way, vectors in seen.pooled.items():
            label = "_".join(part for part in (way, at(t)) if part)
            rows = _few(torch.cat(vectors))
            card.add(
                "similarity_mae", rows[:, None], teacher[:, None], stamp=pairs, label=label,
                resamples=resamples,
            )  # fmt: skip
            card.add(
                "mutual_knn", rows, teacher, stamp=pairs, label=f"k1_{label}", k=1,
                resamples=resamples,
            )  # fmt: skip
        if labels is not None:
            given = (known, labels, torch.cat(seen.vector), torch.cat(seen.label))
            for probe in ("linear_probe", "knn_probe"):
                card.add(probe, *given, stamp=stamp, label=at(t), resamples=resamples)
        return card

    @torch.no_grad()
    def _learn(self, encoder: DenoiserEncoder) -> tuple[Tensor, Tensor | None, LinearMap]:
        """Of the probe's training images: vectors [n, D], labels [n], the map to the teacher."""
        vectors, labels, readout = list[Tensor](), list[Tensor](), LinearMap()
        for batch in self.inputs.probed(self.cfg.evaluate.batch_size):
            tokens, teacher = self._pair(encoder, batch)
            vectors.append(tokens.mean(1).cpu())
            labels += [batch["label"]] if "label" in batch else []
            readout.add(
                self._resized(encoder, tokens, teacher).flatten(0, 1), teacher.flatten(0, 1)
            )
        return torch.cat(vectors), torch.cat(labels) if labels else None, readout

    @torch.no_grad()
    def _look(
        self, encoder: DenoiserEncoder, generator: LatentGenerator, readout: LinearMap
    ) -> _Seen:
        """Of the held-out images."""
        seen, aligner, device = _Seen(), generator.aligner, self.team.device
        for batch in self.inputs.measured(self.cfg.evaluate.batch_size).epoch():
            tokens, teacher = self._pair(encoder, batch)
            seen.vector.append(tokens.mean(1).cpu())
            seen.teacher.append(pooled(teacher).cpu())
            seen.label += [batch["label"]] if "label" in batch else []
            resized = self._resized(encoder, tokens, teacher)
            seen.pooled.setdefault("", []).append(pooled(resized).cpu())
            ways = {LINEAR: readout(resized)}
            if aligner is not None and self.cfg.tap in aligner.config.blocks:
                t = torch.full((len(tokens),), encoder.config.time, device=device)
                projected = aligner.to(device).project(self.cfg.tap, tokens, t)
                ways[HEAD] = self._resized(encoder, projected, teacher)
                seen.pooled.setdefault(HEAD, []).append(pooled(ways[HEAD]).cpu())
            for way, values in ways.items():
                others = teacher.roll(1, 0)
                seen.cosine.setdefault(way, []).append(token_cosine_per_sample(values, teacher))
                seen.chance.setdefault(way, []).append(token_cosine_per_sample(values, others))
        return seen

    def _pair(self, encoder: DenoiserEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, D] of a batch's latents, and the teacher's [B, M, E], float32."""
        latents = batch.get("latent", batch.get("mean"))
        assert latents is not None
        tokens = encoder.of_latents(latents.float().to(self.team.device)).tokens
        assert tokens is not None
        return tokens, batch[f"{TEACHER}/tokens"].float().to(self.team.device)

    @staticmethod
    def _resized(encoder: DenoiserEncoder, tokens: Tensor, teacher: Tensor) -> Tensor:
        """On the teacher's grid."""
        assert encoder.grid is not None
        return to_grid(tokens, encoder.grid, teacher_grid(teacher.shape[1], encoder.grid))

    def _nearness(self, card: LatentCard, seen: _Seen, way: str, t: float, stamp: Stamp) -> None:
        """Token cosine, with what the tokens of another image would give."""
        chance = float(torch.cat(seen.chance[way]).mean())
        card.measurements.append(
            METRICS["token_cosine"].from_samples(
                torch.cat(seen.cosine[way]).cpu(),
                stamp=stamp,
                suffix=f"{way}_{at(t)}",
                resamples=self.cfg.evaluate.resamples,
                baseline=(chance, {"chance": "tokens of another image"}),
            )
        )

    @property
    def _teacher(self) -> str:
        return f"{self.inputs.teacher.name}@{self.inputs.teacher.digest()[:12]}"

    # Generation -----------------------------------------------------------------------------------

    @cached_property
    def _spaces(self) -> Spaces:
        return [reference_features(self.inputs.teacher, self.inputs.vectors(self.inputs.val))]

    def _generation(self, generator: LatentGenerator, arm: str) -> LatentCard:
        """The same noise and texts for every network."""
        e = self.cfg.evaluate
        how = Score(e.generated, e.batch_size, e.sampler, e.guidance, e.resamples)
        stamp = Stamp(
            data=self.inputs.val.name,
            count=e.generated,
            ema=bool(generator.info.training.get("ema")),
            detail={"arm": arm},
        )
        return score_generator(
            generator,
            self._spaces,
            how,
            self.team,
            stamp=stamp,
            condition=self._prompts(),
            clip=self._clip,
        )

    @cached_property
    def _clip(self) -> ClipPairs | None:
        """With what image i is made from: the classes' texts, or the held-out captions, in turn."""
        source = self.cfg.evaluate.clip
        if source is None:
            return None
        words = stored_texts(self.inputs.held_out.texts)
        texts = [words.unique[row] for row in words.of_sample.tolist()]
        return ClipPairs(source, texts, self.team.device)

    def _prompts(self) -> Condition | None:
        """The held-out images' captions, in turn [count, …]; None where there are classes."""
        if self.cfg.texts == "classes":
            return None
        numbers = torch.arange(self.cfg.evaluate.generated) % len(self.inputs.val)
        told = TextTable.of(self.inputs.held_out.texts).condition(numbers)
        return {name: value.float() for name, value in told.items()}


def measured_times(card: LatentCard, metric: str) -> Iterator[tuple[float, str]]:
    """(noise level, name) of a metric's measurements on a card."""
    for m in card:
        if m.metric == metric and "time" in m.stamp.detail:
            yield float(m.stamp.detail["time"]), m.name
