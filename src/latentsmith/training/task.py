"""What a method must say about itself so that the one loop can train it.

A `Task` holds models and losses; it knows nothing of precision, accumulation, clipping, EMA,
checkpoints, processes or logging. The loop (`latentsmith.training.loop`) knows all of those and
no recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.training.blocks import repeated_blocks
from latentsmith.utils.seeding import generator, seed_globals

Batch = dict[str, Any]
"""Collated samples. ``"index"`` int64 [B] (positions in the dataset) is always there; images are
float32 [B, C, H, W] in [0, 1]; labels int64 [B]."""


@dataclass(frozen=True)
class Objective:
    """What one optimiser minimises, over which parameters.

    Most tasks have one. A VAE with a discriminator has two, ``"autoencoder"`` and
    ``"discriminator"``; the loop runs them in order on the same batch, each with its own
    optimiser and schedule, and only the objective's parameters get gradients meanwhile.
    """

    name: str
    params: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    """Multiplies the run's learning rate."""
    starts_at: int = 0
    """Samples seen before this objective is first stepped (a discriminator's warm-up)."""
    undecayed: Sequence[nn.Parameter] = ()
    """Those of ``params`` that weight decay leaves alone (LoRA: small as it is)."""
    slower: Sequence[tuple[float, Sequence[nn.Parameter]]] = ()
    """Those of ``params`` with a learning rate of their own: (times the objective's, which)."""


@dataclass
class StepContext:
    """Where training stands, and a source of noise that depends on nothing else.

    Noise drawn from `noise` is a pure function of (seed, samples seen, rank, micro-batch, name):
    a resumed run, or a second pass over a micro-batch (gradient cache), draws the same numbers
    and no generator state needs saving.
    """

    samples_seen: int
    total_samples: int
    seed: int
    rank: int = 0
    world_size: int = 1
    micro: int = 0
    """Index of this micro-batch within the accumulated batch."""
    micros: int = 1
    """How many micro-batches make one optimiser step. The loop divides ``loss`` by this."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fixed_noise: bool = False
    """Validation: the noise does not depend on ``samples_seen``, so that curves are comparable."""

    @property
    def progress(self) -> float:
        """Fraction of the run done, in [0, 1]."""
        return self.samples_seen / max(self.total_samples, 1)

    def noise(self, name: str) -> torch.Generator:
        """A fresh generator for one named draw of this micro-batch."""
        when = "fixed" if self.fixed_noise else self.samples_seen
        return generator(self.seed, when, self.rank, self.micro, name, device=self.device)

    def seed_globals(self, objective: str) -> None:
        """Seed the global generators (dropout's) for this micro-batch of ``objective``.

        The loop calls it before `Task.look_ahead` and before every forward. So no generator state
        needs saving, and validation cannot disturb training.
        """
        when = "fixed" if self.fixed_noise else self.samples_seen
        seed_globals(self.seed, when, self.rank, self.micro, "global", objective)


class Task(nn.Module):
    """Model(s) + losses + batch contract.

    Subclass and implement `objectives` and `forward`. Everything that must be saved to go on
    training is reached through ``self`` as an ordinary submodule, parameter or buffer; frozen
    parts (encoders, LPIPS) are set ``requires_grad_(False)`` and kept out of checkpoints by
    the loop, which saves the trainable part and the buffers beside it.
    """

    def objectives(self) -> list[Objective]:
        """The objectives, in the order they are stepped on each batch."""
        raise TypeError(f"{type(self).__name__} does not say what it optimises: add objectives()")

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss of one micro-batch.

        Returns:
            ``{"loss": scalar with graph, "part": scalar…}``; every entry is logged (averaged over
            micro-batches and ranks), only ``"loss"`` is differentiated.
        """
        raise TypeError(f"{type(self).__name__} has no loss: add forward()")

    def look_ahead(self, objective: str, micros: list[Batch], ctx: StepContext) -> None:
        """Called once before the micro-batches of a step when there are several.

        Losses over *pairs* of samples need the whole batch: here a task may run the batch without
        graph and keep what `forward` needs (see `latentsmith.training.gradcache`).
        """

    def compile_targets(self) -> list[nn.Module]:
        """Submodules compiled in place when ``train.compile`` is on; they must be *called*
        (``module(x)``), since other methods are not compiled. Default: the direct children that
        hold trainable parameters."""
        return [m for m in self.children() if any(p.requires_grad for p in m.parameters())]

    def shard_blocks(self) -> list[nn.Module]:
        """Submodules whose weights are gathered only while each runs, when ``train.shard`` is fsdp;
        all other weights are whole as long as the task runs. They must be *called*, and their
        weights used by nothing else. Default: repeated blocks. A task that differentiates within
        `forward`, or runs its network with other weights, has none."""
        return repeated_blocks(self)

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Per-sample-mean losses of one held-out batch, on fixed noise. Default: the first
        objective's parts."""
        return self.forward(self.objectives()[0].name, batch, ctx)

    @torch.no_grad()
    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor | None:
        """Images [N, C, H, W] in [0, 1] worth looking at, or None."""
        return None

    def save_pretrained(self, folder: Any) -> None:
        """Write the task's models in their users' format (diffusers folder, safetensors)."""
        raise TypeError(f"{type(self).__name__} has nothing to export: add save_pretrained()")
