"""From a batch to what the network is shown, and what it is to say."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.diffusion.text_latent.modes import ModesConfig, Uniforms, times_of
from latentsmith.diffusion.times import TimeConfig
from latentsmith.errors import UserError
from latentsmith.training.task import Batch

Noise = Callable[[str], torch.Generator]
"""Name of a draw → its generator."""

SPREAD = TimeConfig(stratified=True)
"""Times one to each equal share, in random order: a steadier loss (MDLM)."""


@dataclass(frozen=True)
class Rows:
    """Texts and latents of B samples.

    Attributes:
        tokens: int64 [B, L]; all masked where there is no text.
        latents: float32 [B, …], normalized; 0 where there is none.
        has_text, has_latent: bool [B].
        pseudo: another estimator's latents [B, …], or None.
    """

    tokens: Tensor
    latents: Tensor
    has_text: Tensor
    has_latent: Tensor
    pseudo: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, model: TextLatentModel) -> "Rows":
        """Of a batch with ``tokens`` [B, L], ``latents`` [B, …] and, where some are missing,
        ``has_text``, ``has_latent`` bool [B]; ``pseudo_latents`` if there are such.

        Raises:
            UserError: ``tokens`` or ``latents`` are not there or have another shape than the
                network's.
        """
        for name in ("tokens", "latents"):
            if name not in batch:
                raise UserError(f"the batch holds {', '.join(sorted(batch))}, and no '{name}'")
        tokens, latents = batch["tokens"], batch["latents"]
        shape = model.network.latent_shape
        if tuple(latents.shape[1:]) != tuple(shape):
            raise UserError(
                f"latents of shape {list(latents.shape[1:])} in the batch, and the network is for "
                f"{list(shape)}: nothing is averaged or cut by itself"
            )
        every = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        text, latent = batch.get("has_text", every).bool(), batch.get("has_latent", every).bool()
        there = latent.view(-1, *[1] * len(shape))
        return cls(
            tokens=torch.where(text[:, None], tokens, model.process.mask),
            latents=torch.where(there, latents.float(), 0.0),  # absent ones may be NaN
            has_text=text,
            has_latent=latent,
            pseudo=batch.get("pseudo_latents"),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def where(self, keep: Tensor) -> "Rows":
        """The samples ``keep`` bool [B], all of them without a copy."""
        if bool(keep.all()):
            return self
        rows = keep.nonzero().squeeze(1)
        pseudo = None if self.pseudo is None else self.pseudo[rows]
        return Rows(
            self.tokens[rows],
            self.latents[rows],
            self.has_text[rows],
            self.has_latent[rows],
            pseudo,
        )


@dataclass(frozen=True)
class Noised:
    """What the network is shown and is to say, for R samples.

    Attributes:
        tokens: texts int64 [R, L].
        masked: places that are masked, bool [R, L].
        scored: masked places whose token is to be said, bool [R, L].
        data, noise, z: latents [R, …], z noised.
        t_text, t_lat: times [R].
        learn_text, learn_latent: bool [R].
    """

    tokens: Tensor
    masked: Tensor
    scored: Tensor
    data: Tensor
    noise: Tensor
    z: Tensor
    t_text: Tensor
    t_lat: Tensor
    learn_text: Tensor
    learn_latent: Tensor


def noised(
    rows: Rows,
    modes: Tensor,
    config: ModesConfig,
    model: TextLatentModel,
    noise: Noise,
    *,
    at_least_one: bool = True,
) -> Noised:
    """Samples in their modes (int64 [B], see `modes.MODES`); ``at_least_one``: see
    `MaskedText.masks`.

    Every sample is drawn the same numbers in every mode: they come from named streams, in the
    shape of the whole batch.
    """
    count, device = len(rows), rows.tokens.device
    u = Uniforms(
        text=SPREAD.sample(count, noise("text time"), model.path),
        latent=SPREAD.sample(count, noise("latent time"), model.path),
        coin=SPREAD.sample(count, noise("coin"), model.path),
    )
    times = times_of(config, modes, u, rows.has_text, rows.has_latent)
    t_lat = times.latent * model.t_max
    places = torch.rand(rows.tokens.shape, generator=noise("mask"), device=device)
    real = model.process.real(rows.tokens)
    masked = model.process.masks(times.text, places, real, at_least_one=at_least_one)
    drawn = torch.randn(rows.latents.shape, generator=noise("latent noise"), device=device)
    return Noised(
        tokens=rows.tokens,
        masked=masked,
        scored=masked & times.learn_text[:, None],
        data=rows.latents,
        noise=drawn,
        z=model.path.mix(rows.latents, drawn, t_lat),
        t_text=times.text,
        t_lat=t_lat,
        learn_text=times.learn_text,
        learn_latent=times.learn_latent,
    )


def joined(parts: list[Noised]) -> Noised:
    """Samples of several passes as one."""
    if len(parts) == 1:
        return parts[0]
    names = Noised.__dataclass_fields__
    return Noised(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})
