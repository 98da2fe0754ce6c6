"""What every method makes of the same points: one card each.

Fidelity at every resolution against area means of the truth; whether the decodings of one code
agree across resolutions; whether a value depends on what else is asked; how rough it is. Methods
that learn nothing are in the same table, since what does not beat them is no result.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from latentsmith.autoencoders.field.flow import FieldFlow
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.backbones.mixers import Points
from latentsmith.config.run import Run
from latentsmith.data.fields import grid
from latentsmith.data.fields.interpolation import bicubic, interpolate
from latentsmith.encoders.base import Encoder
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.field_draws import draw_scores
from latentsmith.metrics.field_invariance import query_invariance
from latentsmith.metrics.field_values import across_scales
from latentsmith.metrics.registry import METRICS
from latentsmith.recipes.field.autoencoders import MAIN, UNTRAINED, Autoencoders
from latentsmith.recipes.field.config import FieldConfig, Flow
from latentsmith.recipes.field.flows import Flows
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.recipes.field.latent import LatentFlow
from latentsmith.recipes.field.measure_latent import measure_latent
from latentsmith.training.team import Team
from latentsmith.utils.seeding import generator

SHOWN = 8
"""Images kept for the report's grids."""
Decode = Callable[[Tensor], Tensor]
"""Coordinates [M, d] → values [n, M, C] of all held-out fields."""
Plain = dict[int, Tensor]
"""Side R → values at pixels' centers [n, C, R, R]."""


class Measurer:
    """Measures all methods of one run on the same held-out points."""

    def __init__(self, cfg: FieldConfig, inputs: Inputs, team: Team, autoencoders: Autoencoders):
        self.cfg, self.inputs, self.team, self.autoencoders = cfg, inputs, team, autoencoders

    @cached_property
    def encoder(self) -> Encoder:
        """In whose features images are compared."""
        return self.cfg.evaluate.encoder.build().to(self.team.device)

    @cached_property
    def true_features(self) -> Tensor:
        """Of the truth at the finest side, [n, D]."""
        return self.features(self.inputs.at(max(self.cfg.evaluate.resolutions)))

    def features(self, values: Tensor) -> Tensor:
        """Of images [n, C, R, R] in [-1, 1], [n, D]."""
        return self._in_batches(lambda x: self.encoder.vector((x + 1) / 2), values.clamp(-1, 1))

    def methods(self, run: Run) -> Iterator[tuple[str, Callable[[], LatentCard]]]:
        """(name, what measures it), in the order of the report's table."""
        for name in self.cfg.evaluate.interpolation:
            yield name, partial(self.interpolated, name)
        yield "bicubic_of_all", self.bicubic
        if self.cfg.field.latent.planes:  # else its first values are noise
            yield UNTRAINED, self.untrained
        for arm in (MAIN, *self.cfg.compare):
            yield arm, partial(self.autoencoder, run, arm)
        for flow in self.cfg.flows.make:
            yield flow, partial(self.flow, run, flow)

    # Methods --------------------------------------------------------------------------------------

    def interpolated(self, name: str) -> LatentCard:
        """Without learning, from the same points."""
        coordinates, values, _ = self.inputs.given

        def decode(asked: Tensor) -> Tensor:
            return interpolate(name, coordinates, values, asked[None]).float()

        return self._compared(decode, self._plain(decode), name, supersample=False)

    def bicubic(self) -> LatentCard:
        """The ceiling without a learned prior: enlarged from *all* points of the lattice."""
        card, whole = LatentCard(), self.inputs.at(self.cfg.field.lattice)
        for side in self.cfg.evaluate.resolutions:
            if side != self.cfg.field.lattice:
                self._fidelity(card, bicubic(whole, side), side, "bicubic_of_all")
        return card

    @torch.no_grad()
    def untrained(self) -> LatentCard:
        """The autoencoder before its first step: what the rest of its row adds is learned."""
        autoencoder = self.autoencoders.config(MAIN).build().to(self.team.device).eval()
        return self._decoded(autoencoder, self.codes(autoencoder), UNTRAINED)

    @torch.no_grad()
    def autoencoder(self, run: Run, arm: str) -> LatentCard:
        """Phase 1's reconstructions, and what its code tells."""
        autoencoder = self.autoencoders.load(run, arm)
        codes = self.codes(autoencoder)
        card = self._decoded(autoencoder, codes, arm)
        if arm == MAIN:
            card.figures |= self._shown()
            flow = LatentFlow(self.cfg, self.inputs, self.team, self.autoencoders)
            measured = measure_latent(
                self.cfg, self.inputs, self.team, flow.load(run), self.encoder, codes,
                self._stamp(arm),
            )  # fmt: skip
            card.extend(measured)
        return card

    @torch.no_grad()
    def flow(self, run: Run, flow: Flow) -> LatentCard:
        """Draws of a flow of values: one, and the mean of several."""
        flows = Flows(self.cfg, self.inputs, self.team, self.autoencoders)
        network = flows.load(run, flow)
        tokens, points = self._told(run, network)

        def decode(asked: Tensor, seed: int = 0) -> Tensor:
            return self._drawn(network, tokens, points, asked, seed)

        plain = self._plain(decode)
        card = self._compared(decode, plain, flow, supersample=network.config.decoder.exact)
        self._draws(card, decode, plain, flow)
        return card

    # Parts ----------------------------------------------------------------------------------------

    def codes(self, autoencoder: FieldAutoencoder) -> Tensor:
        """Codes of the given points, [n, z, h, w] on the CPU."""
        coordinates, values, _ = self.inputs.given
        return self._in_batches(autoencoder.encode_points, coordinates, values)

    def _decoded(self, autoencoder: FieldAutoencoder, codes: Tensor, name: str) -> LatentCard:
        """What an autoencoder's decoder makes of codes [n, z, h, w]."""

        def decode(asked: Tensor) -> Tensor:
            return self._in_batches(lambda z: autoencoder.decode_at(z, asked.to(z.device)), codes)

        exact = autoencoder.config.decoder.exact
        return self._compared(decode, self._plain(decode), name, supersample=exact)

    def _shown(self) -> dict[str, Tensor]:
        """The truth at every side, and the given points on their lattice (others grey)."""
        side, known = self.cfg.field.lattice, self.inputs.given[2][:SHOWN]
        at = {r: (self.inputs.at(r)[:SHOWN] + 1) / 2 for r in self.cfg.evaluate.resolutions}
        lattice = (self.inputs.at(side)[:SHOWN] + 1) / 2
        given = torch.where(known.unflatten(1, (1, side, side)), lattice, 0.5)
        return {"given": given} | {f"truth_{r}": images for r, images in at.items()}

    def _in_batches(self, what: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        size, device = self.cfg.evaluate.batch_size, self.team.device
        parts = zip(*(x.split(size) for x in rows), strict=True)
        return torch.cat([what(*(x.to(device) for x in part)).cpu() for part in parts])

    def _told(self, run: Run, network: FieldFlow) -> tuple[Tensor, Tensor]:
        """Tokens [n, K, z] and where they lie [n or 1, K, d]."""
        coordinates, values, _ = self.inputs.given
        if network.config.told == "inputs":
            return values, coordinates
        autoencoder = self.autoencoders.load(run)
        codes = self.codes(autoencoder)
        return codes.flatten(2).mT, autoencoder.anchors().coordinates.cpu()

    def _drawn(
        self, network: FieldFlow, tokens: Tensor, points: Tensor, asked: Tensor, seed: int
    ) -> Tensor:
        numbers = torch.arange(len(tokens))
        points = points.expand(len(tokens), -1, -1)

        def draw(tokens: Tensor, points: Tensor, numbers: Tensor) -> Tensor:
            return network.draw(
                tokens,
                Points(points),
                asked[None].to(tokens.device),
                self.cfg.evaluate.sampler,
                seed=seed,
                indices=numbers.cpu(),
            )

        return self._in_batches(draw, tokens, points, numbers)

    def _plain(self, decode: Decode) -> Plain:
        """Values at the pixels' centers, by side."""
        return {s: _as_image(decode(grid(s)), s) for s in self.cfg.evaluate.resolutions}

    def _compared(
        self, decode: Decode, plain: Plain, name: str, *, supersample: bool
    ) -> LatentCard:
        """Fidelity, agreement, invariance and roughness of one decoder."""
        card, e = LatentCard(), self.cfg.evaluate
        for side, values in plain.items():
            fine = _supersampling(side, max(plain)) if supersample and e.supersample else 1
            if fine > 1:  # a pixel is a mean over its cell
                dense = side * fine
                whole = plain[dense] if dense in plain else _as_image(decode(grid(dense)), dense)
                values = F.avg_pool2d(whole, fine)
            self._fidelity(card, values, side, name)
        self._agreement(card, plain, name)
        self._invariance(card, decode, plain, name)
        return card

    def _stamp(self, name: str, **detail: object) -> Stamp:
        e = self.cfg.evaluate
        given = {"method": name, "given": e.inputs, "lattice": self.cfg.field.lattice}
        return Stamp(data=self.inputs.val.name, count=len(self.inputs.truth), detail=given | detail)

    def _fidelity(self, card: LatentCard, values: Tensor, side: int, name: str) -> None:
        truth, resamples = self.inputs.at(side), self.cfg.evaluate.resamples
        stamp, label = self._stamp(name), str(side)
        pair = [((x + 1) / 2).clamp(0, 1) for x in (truth, values)]
        for metric in ("psnr", "ssim"):
            card.add(metric, *pair, stamp=stamp, label=label, resamples=resamples)
        if side > self.cfg.field.lattice:
            card.add("roughness", values, truth, stamp=stamp, label=label, resamples=resamples)
        if side == self.cfg.field.lattice:
            known = self.inputs.given[2]
            for metric in ("observed_psnr", "unobserved_psnr"):
                card.add(
                    metric, values.clamp(-1, 1), truth, known,
                    stamp=stamp, label=label, resamples=resamples,
                )  # fmt: skip
        if side == max(self.cfg.evaluate.resolutions):  # encoders enlarge what is small
            self._perceptual(card, values, label, stamp)
        card.figures[label] = ((values[:SHOWN] + 1) / 2).clamp(0, 1)

    def _perceptual(self, card: LatentCard, values: Tensor, label: str, stamp: Stamp) -> None:
        """How far an encoder's features are from the truth's."""
        space = self.encoder.name
        apart = (self.features(values) - self.true_features).double().square().mean(1)
        card.measurements.append(
            METRICS["perceptual_distance"].from_samples(
                apart, stamp=replace(stamp, space=space), suffix=f"{label}_{space}",
                resamples=self.cfg.evaluate.resamples,
            )
        )  # fmt: skip

    def _agreement(self, card: LatentCard, plain: Plain, name: str) -> None:
        """Between the decodings at the coarsest side and at the finest odd multiple of it."""
        coarse = min(plain)
        odd = [side for side in plain if side > coarse and side % coarse == 0
               and side // coarse % 2]  # fmt: skip
        if not odd:
            return
        for what, pair in across_scales(plain[max(odd)], plain[coarse]).items():
            card.add(
                "agreement", *pair, label=f"{coarse}_{max(odd)}_{what}",
                stamp=self._stamp(name), resamples=self.cfg.evaluate.resamples,
            )  # fmt: skip

    def _invariance(self, card: LatentCard, decode: Decode, plain: Plain, name: str) -> None:
        """Points asked alone, or in another order, against the same among all."""
        side, ways = self.cfg.field.lattice, {"subset": "10 %", "permuted": "permuted"}
        points = grid(side).expand(len(self.inputs.truth), -1, -1)
        found = query_invariance(
            lambda asked: decode(asked[0]), points, generator(self.cfg.seed, "invariance"),
            ways=ways.values(), whole=plain[side].flatten(2).mT if side in plain else None,
        )  # fmt: skip
        for label, what in ways.items():
            card.measurements.append(
                METRICS["agreement"].from_samples(
                    found[what].psnr, suffix=f"queries_{label}",
                    stamp=self._stamp(name, queries=what, worst=found[what].worst),
                    resamples=self.cfg.evaluate.resamples,
                )
            )  # fmt: skip

    def _draws(
        self, card: LatentCard, decode: Callable[..., Tensor], plain: Plain, name: str
    ) -> None:
        """PSNR of single draws and of their mean, and how far draws lie apart, at the first side
        above the lattice (they are many). Draws of the true posterior lie 3 dB below its mean."""
        e = self.cfg.evaluate
        above = [side for side in e.resolutions if side > self.cfg.field.lattice]
        side = min(above, default=max(e.resolutions))
        others = [_as_image(decode(grid(side), seed), side) for seed in range(1, e.draws)]
        draws = torch.stack([plain[side], *others])  # the first has seed 0
        truth = self.inputs.at(side)
        scores = draw_scores(draws, truth)
        stamp = self._stamp(name, draws=e.draws, expected_gain=scores.expected_gain)
        for what, values in (("single_draw", scores.single), ("mean_of_draws", scores.mean)):
            card.measurements.append(
                METRICS["psnr"].from_samples(
                    values, stamp=stamp, suffix=f"{side}_{what}", resamples=e.resamples
                )
            )
        card.add(
            "draws_spread", draws.transpose(0, 1), truth, stamp=stamp, label=str(side),
            resamples=e.resamples,
        )  # fmt: skip


def _as_image(values: Tensor, side: int) -> Tensor:
    """[n, M, C] on a grid → [n, C, R, R]."""
    return values.mT.unflatten(2, (side, side))


def _supersampling(side: int, finest: int) -> int:
    """Points along a pixel: those of the finest side where it is a multiple, else 2."""
    if side >= finest:
        return 1
    return finest // side if finest % side == 0 else 2
