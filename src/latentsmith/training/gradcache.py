"""The large batch's gradient in a micro-batch's memory.

GradCache (Gao et al. 2021, arXiv 2101.06983), for any loss of joined representations.
A loss over *pairs* of samples is not the mean of its micro-batches' losses, so plain gradient
accumulation trains something else. Two passes give the true gradient:

1. every micro-batch is encoded without graph; the loss of the joined representations gives
   g_k = ∂L/∂z_k for each micro-batch (`cache_gradients`, in a task's ``look_ahead``);
2. every micro-batch is encoded again with graph, and Σ z_k · g_k is differentiated in place of L
   (`GradientCache.surrogate`, in the task's ``forward``), beside the per-sample losses.

The price is one more encoding without graph. Both passes must see the same numbers: draw noise
from ``ctx.noise``, and wrap the encoding in `GradientCache.replay` if the model draws its own
(dropout). Batch normalization in training mode cannot be replayed.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.training.task import Batch, StepContext

Rng = tuple[Tensor, Tensor | None]
"""States of the default generators: CPU, and the CUDA device in use."""


@dataclass(frozen=True)
class GradientCache:
    """What the second pass needs of the first.

    Attributes:
        loss: the joined batch's loss, detached scalar.
        latents: representations of each micro-batch, [b_k, …].
        gradients: ∂loss/∂latents of each micro-batch, [b_k, …].
    """

    loss: Tensor
    latents: list[Tensor]
    gradients: list[Tensor]
    rng: list[Rng]
    """Generator states at the start of each micro-batch's first encoding."""

    def surrogate(self, latents: Tensor, micro: int) -> Tensor:
        """A scalar with the value of the joined batch's loss and micro-batch ``micro``'s share of
        its gradient.

        Add it to the micro-batch's loss as the pair loss itself would be. It is already multiplied
        by the number of micro-batches, which the loop divides by. Under data parallelism the
        gradient of a loss gathered by `gather_with_grad` is right under DDP's mean.

        Args:
            latents: second encoding of the micro-batch, [b, …], with graph.
            micro: its index, ``ctx.micro``.

        Raises:
            RuntimeError: when the encoding is not that of the first pass.
        """
        self._check_same(latents, micro)
        gradient = self.gradients[micro]
        share = (latents.to(gradient.dtype) * gradient).sum() * len(self.gradients)
        return self.loss + share - share.detach()

    @contextlib.contextmanager
    def replay(self, micro: int) -> Iterator[None]:
        """Encode inside this to draw from the default generators what the first pass drew; their
        states outside are untouched."""
        device = self.gradients[micro].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            cpu, cuda = self.rng[micro]
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)
            yield

    def _check_same(self, latents: Tensor, micro: int) -> None:
        first = self.latents[micro]
        if latents.shape != first.shape:
            raise RuntimeError(
                f"gradient cache: micro-batch {micro} was encoded to {list(first.shape)} at first "
                f"and to {list(latents.shape)} now. Are micro-batches visited in order?"
            )
        off = (latents.detach() - first).float().norm() / first.float().norm()
        if off > 0.05:  # far above what a change of kernel does, below any fresh noise that matters
            raise RuntimeError(
                f"gradient cache: the second encoding of micro-batch {micro} differs from the "
                f"first by {off:.0%}. Draw noise from ctx.noise(...) and wrap the encoding in "
                "cache.replay(ctx.micro) if the model has dropout."
            )


def cache_gradients(
    micros: list[Batch],
    encode: Callable[[Batch, StepContext], Tensor],
    loss: Callable[[Tensor], Tensor],
    ctx: StepContext,
) -> GradientCache:
    """First pass: gradients of a loss of the whole batch at each micro-batch's representations.

    Call it under the autocast that the second pass will run under.

    Args:
        micros: the micro-batches, in the order in which the loop will visit them.
        encode: (micro-batch, its context) → representations [b, …], run without graph. The context
            is ``ctx`` with ``micro`` set, so ``ctx.noise`` gives what it will give in the second
            pass.
        loss: representations joined in that order [Σ b, …] → scalar. Join the references of the
            micro-batches likewise.
        ctx: the step's context.
    """
    latents: list[Tensor] = []
    rng: list[Rng] = []
    # Both passes may run inside one autocast: since pytorch pull request 165068 it no longer keeps
    # weights cast here without graph, which then got no gradient in the second pass.
    with torch.no_grad():
        for k, micro in enumerate(micros):
            cuda = torch.cuda.get_rng_state(ctx.device) if ctx.device.type == "cuda" else None
            rng.append((torch.get_rng_state(), cuda))
            context = dataclasses.replace(ctx, micro=k, micros=len(micros))
            latents.append(encode(micro, context).detach())
    with torch.enable_grad():
        joined = torch.cat(latents)
        # gradients in at least float32 even where autocast made the latents half
        joined = joined.to(torch.promote_types(joined.dtype, torch.float32)).requires_grad_()
        value = loss(joined)
        (gradient,) = torch.autograd.grad(value, joined)
    parts = gradient.split([len(z) for z in latents])
    return GradientCache(value.detach(), latents, list(parts), rng)
