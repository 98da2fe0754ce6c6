r"""``vavae``: latents like a foundation model's patch tokens (VA-VAE's VF loss, Yao et al. 2025,
arXiv 2501.01423).

.. math::
    L_{mcos} = \tfrac1N \sum_i \mathrm{relu}(1 - m_1 - \cos(W z_i, f_i))

    L_{mdms} = \tfrac1{N^2} \sum_{i,j} \mathrm{relu}(|\cos(z_i, z_j) - \cos(f_i, f_j)| - m_2)

    L_{VF} = w \, \frac{\|\nabla L_{rec}\|}{\|\nabla (L_{mcos} + L_{mdms})\|} (L_{mcos} + L_{mdms})

z_i: the latent at position i of N = h w; f_i: the teacher's token there; W: a learned projection;
means over samples; gradients at the weight of the encoder's last layer. Positions of one image are
compared, never two images: that is where MM-Reg differs.

The paper's formula compares the latents themselves in L_mdms, its public code the projected ones:
``relations`` chooses. The authors trained in three stages (weight 0.5 without margins; weight 0.1;
margins 0.5 and 0.25); the defaults here are the last. Their tokens came from images in [-1, 1]
("a small bug"); encoders here normalize their own input.
"""

from typing import Annotated, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.losses.alignment import check_tokens, teacher_grid, to_grid, token_cosine
from latentsmith.losses.pairwise import at_least_float32, full_precision
from latentsmith.losses.regularizer import (
    LOSSES,
    LatentView,
    Place,
    Regularizer,
    RegularizerConfig,
)
from latentsmith.utils.distributed import is_distributed, world_size
from latentsmith.utils.seeding import generator

EPS = 1e-6
"""Lengths below this count as this: a latent of zeros has no direction, and gets no infinite
gradient."""


def cosine_loss(projected: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """L_mcos of tokens [B, N, D] against a teacher's [B, N, D]."""
    return F.relu(1 - margin - token_cosine(projected, teacher)).mean()


def relation_loss(latents: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """L_mdms of tokens [B, N, C] against a teacher's [B, N, D]; C and D may differ."""
    gap = (_cosines(latents) - _cosines(teacher.detach())).abs()
    return F.relu(gap - margin).mean()


def _cosines(tokens: Tensor) -> Tensor:
    """Cosines between the tokens of each sample [B, N, N], in float32 or wider."""
    with full_precision(tokens):
        unit = F.normalize(at_least_float32(tokens), dim=-1, eps=EPS)
        return unit @ unit.mT


def pull_ratio(objective: Tensor, loss: Tensor, weight: Tensor, *, maximum: float = 1e4) -> Tensor:
    r"""How much ``loss`` must be scaled to pull at ``weight`` as hard as ``objective`` does.

    .. math:: \|\nabla_W L_{rec}\| / (\|\nabla_W L\| + 10^{-8})

    Without gradient, at most ``maximum``; both graphs are kept. Over several processes the
    gradients are averaged first, so that all use the ratio of the joined batch; every process
    must come here.
    """
    both = torch.stack(
        [torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (objective, loss)]
    )
    both = at_least_float32(both)
    if is_distributed():
        dist.all_reduce(both)
    pull, push = (gradient.norm() / world_size() for gradient in both)
    return (pull / (push + 1e-8)).clamp(0, maximum).detach()


class VAVAE(Regularizer):
    """See the module and `VAVAEConfig`.

    Args:
        channels: C of the latents.
        width: D of the teacher's tokens.
        seed: of the projection's initial weights.
    """

    def __init__(self, config: "VAVAEConfig", *, channels: int, width: int, seed: int = 0):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(channels, width, bias=False)  # 1 x 1 over positions
        rng = generator(seed, "vavae projection")
        nn.init.normal_(self.projection.weight, std=channels**-0.5, generator=rng)

    def forward(self, view: LatentView) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss before its weight, and its two parts unweighted; ``adaptive`` is the ratio of
        gradients, where they can be had (not in validation)."""
        config = self.config
        with full_precision(view.latent):
            latents = at_least_float32(view.latent).flatten(2).transpose(1, 2)  # [B, N, C]
            projected = F.linear(latents, self.projection.weight.to(latents.dtype))
            teacher = self.teacher(view).to(latents.dtype)
            cosine = cosine_loss(projected, teacher, config.cosine_margin)
            related = latents if config.relations == "latents" else projected
            relation = relation_loss(related, teacher, config.relation_margin)
            loss = config.cosine * cosine + config.relation * relation
        parts = {"cosine": cosine.detach(), "relation": relation.detach()}
        last = view.last_weight
        if config.adaptive and last is not None and loss.requires_grad:
            parts["adaptive"] = pull_ratio(view.objective, loss, last)
            loss = parts["adaptive"] * loss
        return loss, parts

    @torch.no_grad()
    def teacher(self, view: LatentView) -> Tensor:
        """The teacher's tokens at the latent's positions, [B, h w, D]: unit tokens, resized
        bilinearly from the teacher's grid.

        Raises:
            UserError: zero or unfinite tokens, or tokens that form no grid.
        """
        tokens = view.tokens[self.config.reference]
        check_tokens(tokens, torch.arange(len(tokens)) if view.index is None else view.index)
        height, width = view.latent.shape[-2:]
        grid = teacher_grid(tokens.shape[1], (height, width))
        return to_grid(F.normalize(tokens.float(), dim=-1), grid, (height, width))


@LOSSES.register("vavae", help="VA-VAE: positions relate as a foundation model's patch tokens do")
@schema
class VAVAEConfig(RegularizerConfig):
    """Alignment with a foundation model's patch tokens, within each image (VA-VAE)."""

    kind: Literal["vavae"] = "vavae"
    weight: Annotated[float, Field(ge=0)] = 0.1
    """Pull on the encoder over that of the reconstruction (with ``adaptive``): the paper's
    w_hyper."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the run over which the weight rises linearly from 0. 0: full from the start."""
    final: Annotated[float, Field(ge=0)] = 1.0
    """Weight at the end over `weight`; it changes linearly over the run."""
    reference: str = "encoder"
    """Name of the reference whose patch tokens are the teacher's."""
    cosine_margin: Annotated[float, Field(ge=0, le=2)] = 0.5
    """m1: no pull where 1 - cosine is below this."""
    relation_margin: Annotated[float, Field(ge=0, le=2)] = 0.25
    """m2: no pull where two cosines differ by less."""
    cosine: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the position-by-position loss."""
    relation: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the loss between relations of positions."""
    relations: Literal["latents", "projected"] = "latents"
    """Whose relations: the latents' own (the paper's formula) or the projected ones' (its
    code)."""
    adaptive: bool = True
    """Scale by the ratio of the gradients of reconstruction and alignment at the encoder's last
    layer. Costs a second backward pass through the decoder."""

    def __post_init__(self) -> None:
        if self.cosine == 0 and self.relation == 0:
            raise ValueError("cosine and relation are both 0: give one a weight, or loss=none")

    def teachers(self) -> list[str]:
        """The one reference."""
        return [self.reference]

    def regularizer(self, place: Place) -> VAVAE:
        """The term with a fresh projection. Raises UserError when the reference has no tokens."""
        if self.reference not in place.token_widths:
            raise UserError(
                f"loss vavae aligns with patch tokens of reference {self.reference!r}, which has "
                "none: choose an encoder with tokens, as dinov2, clip or efficientnet_lite0"
            )
        width = place.token_widths[self.reference]
        return VAVAE(self, channels=place.latent_channels, width=width, seed=place.seed)
