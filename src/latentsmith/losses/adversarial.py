r"""GAN losses over patch logits, and the weight that balances them with reconstruction.

hinge (Lim & Ye 2017):     D: ½ E[max(0, 1 - D(x))] + ½ E[max(0, 1 + D(x̂))]     G: -E[D(x̂)]
vanilla (Goodfellow 2014): D: ½ E[softplus(-D(x))] + ½ E[softplus(D(x̂))]        G: E[softplus(-D(x̂))]
"""  # noqa: E501

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GANLoss = Literal["hinge", "vanilla"]


def discriminator_loss(real: Tensor, fake: Tensor, kind: GANLoss = "hinge") -> Tensor:
    """Scalar for the discriminator to minimise.

    Args:
        real, fake: logits of any shape for images and for *detached* reconstructions.
        kind: see the module.
    """
    real, fake = real.float(), fake.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Tensor, kind: GANLoss = "hinge") -> Tensor:
    """Scalar for the autoencoder to minimise; ``vanilla`` is the non-saturating form."""
    fake = fake.float()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor, *, maximum: float = 1e4
) -> Tensor:
    r"""How much the adversarial loss must be scaled to pull as hard as the reconstruction.

    .. math:: \|\nabla_W L_{rec}\| / (\|\nabla_W L_{adv}\| + 10^{-4})

    with W the weight of the decoder's last layer (Esser et al. 2021, eq. 7). In float32, no
    gradient, clamped to [0, maximum]. Keeps both graphs. Under data parallelism each rank has its
    own; nothing waits.
    """
    pull = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)[0]
    push = torch.autograd.grad(adversarial, last_weight, retain_graph=True)[0]
    ratio = pull.float().norm() / (push.float().norm() + 1e-4)
    return ratio.clamp(0, maximum).detach()
