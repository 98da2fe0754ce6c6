"""Small networks, batches and tasks over texts and latents."""

from typing import Any

import torch
from torch import Tensor

from helpers.backbones import randomized
from latentsmith.backbones.mmdit import MMDiTConfig, TextLatentNet
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.config import CyclesConfig, TextLatentConfig
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.diffusion.text_latent.modes import ModesConfig
from latentsmith.diffusion.text_latent.task import TextLatentTask
from latentsmith.losses.cycle.latent import LatentCycleConfig
from latentsmith.losses.cycle.text import TextCycleConfig
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.training.task import StepContext

V, L, D = 20, 8, 12
PAD, EOS, MASK = 0, 1, V - 1
NOW: dict[str, Any] = {"warmup": 0.0, "ramp": 0.0}
"""Terms that count from the start."""


def process(**settings: Any) -> MaskedText:
    given: dict[str, Any] = {"eos": EOS, "pad": PAD} | settings
    return MaskedText(V, MASK, **given)


def network(share: str = "streams", latent_shape=(D,), **settings: Any) -> TextLatentNet:
    """Of two blocks, with its weights drawn anew."""
    small = {"size": "smoke", "width": 24, "heads": 2, "latent_tokens": 3}
    config = MMDiTConfig(share=share, **(small | settings))  # type: ignore[arg-type]
    return randomized(config.build(V, L, latent_shape))


def model(net: TextLatentNet | None = None, **settings: Any) -> TextLatentModel:
    known = settings.pop("process", process())
    return TextLatentModel(network() if net is None else net, known, **settings)


def texts(count: int, seed: int = 0) -> Tensor:
    """Of 3 to 7 tokens, filled up with EOS."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, MASK, (count, L), generator=rng)
    length = torch.randint(3, L, (count, 1), generator=rng)
    return torch.where(torch.arange(L) < length, tokens, EOS)


def batch(count: int = 16, seed: int = 0, **more: Any) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, D, generator=rng)
    return {"index": torch.arange(count), "tokens": texts(count, seed), "latents": latents, **more}


def context(seen: int = 0, **more: Any) -> StepContext:
    return StepContext(seen, 1000, seed=3, **more)


def config(mode: str = "l2t+t2l", **settings: Any) -> TextLatentConfig:
    """Settings; ``t2l2t`` and ``l2t2l`` of the cycles, ``modes`` beside the mode, as dicts."""
    cycles = CyclesConfig(
        t2l2t=TextCycleConfig(**(NOW | settings.pop("t2l2t", {}))),
        l2t2l=LatentCycleConfig(**(NOW | settings.pop("l2t2l", {}))),
    )
    modes = ModesConfig(mode=mode, **settings.pop("modes", {}))
    return TextLatentConfig(modes=modes, cycles=cycles, **settings)


def task(mode: str = "l2t+t2l", net: TextLatentNet | None = None, **settings: Any):
    reference = LatentReference.fit(torch.randn(64, D, generator=torch.Generator().manual_seed(9)))
    return TextLatentTask(
        network() if net is None else net,
        config(mode, **settings),
        process(),
        reference=settings.get("reference", reference),
    )


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
