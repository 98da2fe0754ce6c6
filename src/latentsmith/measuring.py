"""``latentsmith.measure``: the latent card of any object with ``encode`` and ``decode``.

``latentsmith measure`` does the same for saved models on datasets, with probes fitted on training
images; `latentsmith.metrics.latent_card` is underneath both.
"""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.errors import UserError, nearest
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.latent_card import CardData, latent_card
from latentsmith.reports.card import GROUPS, card, card_figures, write_card
from latentsmith.reports.content import Report
from latentsmith.reports.glossary import explain, label, meaning
from latentsmith.reports.numbers import interval_text, value_text

Range = tuple[float, float]
Vectors = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] → vectors [B, D]."""


@dataclass(frozen=True, repr=False)
class MeasuredCard(Mapping[str, Measurement]):
    """Measurements by name: ``card["psnr"].value``, ``.interval``; printed, a table."""

    title: str
    card: LatentCard
    """Everything, also what could not be measured (``not_measured``: name → why) and the tensors
    behind figures (``figures``)."""

    def __getitem__(self, name: str) -> Measurement:
        found = self.card.get(name)
        if found is None:
            why = self.card.not_measured.get(name) or nearest(name, list(self))
            raise KeyError(f"{name} was not measured: {why}")
        return found

    def __iter__(self) -> Iterator[str]:
        return (m.name for m in self.card)

    def __len__(self) -> int:
        return len(self.card.measurements)

    def __repr__(self) -> str:
        cells = [(g, m.name, f"{value_text(m)} {interval_text(m)}") for g, m in self._rows()]
        width = max((len(name) for _, name, _ in cells), default=0)
        lines = [self.title]
        for n, (group, name, value) in enumerate(cells):
            lines += [f"{group}:"] if n == 0 or group != cells[n - 1][0] else []
            lines.append(f"  {name:{width}}  {value}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table a notebook shows, what each number says beside it."""
        rows = [
            f'<tr><td style="text-align:left">{html.escape(label(m))}</td>'
            f"<td>{html.escape(value_text(m))}</td><td>{html.escape(interval_text(m))}</td>"
            f'<td style="text-align:left">{html.escape(meaning(m))}</td></tr>'
            for _, m in self._rows()
        ]
        head = "<tr><th>metric</th><th>value</th><th>95 % interval</th><th>what it says</th></tr>"
        title = html.escape(self.title)
        return f"<table><caption>{title}</caption>{head}{''.join(rows)}</table>"

    def report(self) -> Report:
        """The card as a report, with its figures."""
        figures = card_figures(self.card.figures, list(self.card))
        reasons = self.card.not_measured
        return card(self.title, list(self.card), figures=figures, not_measured=reasons)

    def save(self, folder: Path | str) -> Path:
        """Write ``card.html`` and ``card.json``; returns the page."""
        return write_card(Path(folder), self.report())

    def _rows(self) -> list[tuple[str, Measurement]]:
        """(group, measurement), the groups in the order of the card's page."""
        found = [(explain(m)[0].group, m) for m in self.card]
        order = list(GROUPS)
        return sorted(found, key=lambda pair: order.index(pair[0]) if pair[0] in order else 99)


def measure(
    vae: Any,
    images: Tensor | Sequence[Any],
    *,
    labels: Tensor | Sequence[int] | None = None,
    encoders: Mapping[str, Any] | None = None,
    value_range: Range | None = None,
    cfg: CardConfig | None = None,
    name: str | None = None,
) -> MeasuredCard:
    """Measure reconstruction, geometry, smoothness and statistics of an autoencoder's latents.

    Args:
        vae: anything with ``encode(images)`` and ``decode(latents)``: an autoencoder of diffusers,
            one of ours, or your own, whose two methods give tensors (or a distribution with
            ``mode()``; then its mode is measured). Put in evaluation mode meanwhile.
        images: held-out images, float [N, C, H, W] in [0, 1] or uint8; or a list of such [C, H, W]
            or of PIL images, all of one size. A few thousand for numbers to quote.
        labels: class of each image; adds probes and class geometry.
        encoders: name → reference space: an `Encoder` of ours, or a function from images
            [B, C, H, W] in [0, 1] to vectors [B, D]. Geometry is measured against each, Fréchet
            distances in each. Without any, geometry is measured against pixels.
        value_range: what ``vae`` takes and gives for black and white. None: (-1, 1) for classes of
            diffusers, else (0, 1).
        cfg: how it is measured (bootstrap, paths, seed, batch size).
        name: what to call it and its data in stamps; None: its class.

    Raises:
        UserError: no such methods, images of another form or range, latents or reconstructions
            that are NaN or of another shape than the images.
    """
    cfg, title = cfg or CardConfig(), name or type(vae).__name__
    for method in ("encode", "decode"):
        if not callable(getattr(vae, method, None)):
            raise UserError(f"{title} has no {method}(): measure takes an object with both")
    pixels = _pixels(images)
    spaces = {key: _vectors(value) for key, value in (encoders or {}).items()}
    coder = _Coder(vae, value_range or ((-1.0, 1.0) if _is_diffusers(vae) else (0.0, 1.0)))

    with _evaluating(vae), torch.no_grad():
        _try_out(coder, pixels[: cfg.batch_size], default=value_range is None)
        known = {key: _in_batches(f, pixels, cfg.batch_size) for key, f in spaces.items()}
        data = CardData(
            images=pixels,
            references=known or {"pixels": pixels.flatten(1)},
            labels=None if labels is None else torch.as_tensor(labels, dtype=torch.int64),
            features=known,
        )
        stamp = Stamp(data=f"images given to measure({title})", count=len(pixels), seed=cfg.seed)
        found = latent_card(coder.encode, coder.decode, data, spaces, stamp=stamp, cfg=cfg)
    return MeasuredCard(f"Latent space of {title}, {len(pixels):,} images", found)


class _Coder:
    """An autoencoder as functions of images in [0, 1] and latents, float32 on the CPU."""

    def __init__(self, vae: Any, value_range: Range):
        low, high = value_range
        if not low < high:
            raise UserError(f"value_range {value_range}: give (black, white), black below white")
        self.vae, self.low, self.span = vae, low, high - low
        self.device, self.dtype = _placed(vae)

    def encode(self, images: Tensor) -> Tensor:
        """[B, C, H, W] → [B, …]."""
        scaled = images * self.span + self.low
        return _latents(self.vae.encode(scaled.to(self.device, self.dtype))).float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """[B, …] → [B, C, H, W]."""
        made = _decoded(self.vae.decode(latents.to(self.device, self.dtype)))
        return (made.float().cpu() - self.low) / self.span


def _pixels(images: Any) -> Tensor:
    """Float [N, C, H, W] in [0, 1]. Raises UserError."""
    if not isinstance(images, Tensor):
        parts = [part if isinstance(part, Tensor) else _of_picture(part) for part in images]
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) != 1:
            raise UserError(f"images must all be of one size, these are of {sorted(shapes)}")
        images = torch.stack(parts)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"images must be [N, C, H, W] with 1 or 3 channels, these are {list(images.shape)}"
        )
    if images.dtype == torch.uint8:
        images = images / 255
    if not images.is_floating_point():
        raise UserError(f"images must be uint8 or float in [0, 1], these are {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # so that NaN is refused too
        raise UserError(
            f"images must lie in [0, 1], these reach from {low:.3g} to {high:.3g}: rescale them "
            "(from [-1, 1]: (x + 1) / 2); what the autoencoder takes is told by value_range"
        )
    return images.detach().float().cpu().clamp(0, 1)


def _of_picture(picture: Any) -> Tensor:
    """uint8 [C, H, W] of a PIL image or an array [H, W] or [H, W, C]."""
    import numpy as np

    values = torch.from_numpy(np.array(picture))
    return values[None] if values.ndim == 2 else values.movedim(-1, 0)


def _vectors(space: Any) -> Vectors:
    """A reference space as a function to vectors on the CPU."""
    from latentsmith.encoders.base import Encoder

    if isinstance(space, Encoder):
        device, _ = _placed(space)
        return lambda x: space.vector(x.to(device)).float().cpu()
    if not callable(space):
        raise UserError(f"an encoder must be a function of images, got {type(space).__name__}")
    function: Any = space  # callable() has made it a function to object
    return lambda x: function(x).float().flatten(1).cpu()


def _is_diffusers(vae: Any) -> bool:
    return any(kind.__module__.startswith("diffusers.") for kind in type(vae).__mro__)


def _placed(model: Any) -> tuple[torch.device, torch.dtype]:
    """Where a model computes, and in what; float32 on the CPU for what has no weights."""
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def _evaluating(vae: Any) -> Iterator[None]:
    """In evaluation mode, and then as it was."""
    if not isinstance(vae, nn.Module):
        yield
        return
    modes = {module: module.training for module in vae.modules()}
    vae.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _latents(out: Any) -> Tensor:
    """Of what an ``encode`` gave: a tensor, diffusers' output, or a distribution (its mode)."""
    for attribute in ("latent_dist", "latents"):
        out = getattr(out, attribute, out)
    if isinstance(out, tuple) and out:
        out = out[0]
    mode = getattr(out, "mode", None)
    if not isinstance(out, Tensor) and callable(mode):
        out = mode()
    if not isinstance(out, Tensor):
        raise UserError(
            f"encode() gave a {type(out).__name__}: it must be a tensor [B, ...], or a "
            "distribution with mode()"
        )
    return out


def _decoded(out: Any) -> Tensor:
    """Of what a ``decode`` gave: a tensor, or diffusers' output."""
    made = out if isinstance(out, Tensor) else getattr(out, "sample", out)
    if isinstance(made, tuple) and made:
        made = made[0]
    if not isinstance(made, Tensor):
        raise UserError(f"decode() gave a {type(made).__name__}: it must be images [B, C, H, W]")
    return made


def _try_out(coder: _Coder, images: Tensor, *, default: bool) -> None:
    """One batch there and back, before minutes are spent. Raises UserError."""
    back = coder.decode(coder.encode(images))
    if back.shape != images.shape:
        raise UserError(
            f"decode() gave images {list(back.shape[1:])} for images {list(images.shape[1:])}: "
            "give images of a size (and channels) that the autoencoder keeps"
        )
    low = float(back.flatten(1).amin(1).mean())  # of most images, not of one outlier
    if default and low < -0.3:
        raise UserError(
            f"decoded images reach down to {low:.2f}, so this autoencoder does not work in [0, 1]: "
            "tell its range, value_range=(-1, 1)"
        )


def _in_batches(function: Vectors, images: Tensor, size: int) -> Tensor:
    return torch.cat([function(batch) for batch in images.split(size)])
