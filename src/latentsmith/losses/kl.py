r"""KL divergence of a diagonal Gaussian posterior from the standard normal.

.. math:: KL(N(\mu, \sigma^2) \| N(0, 1)) = \frac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

per latent element. The two common weights differ by a factor of C*h*w (4,096 for 32x32x4): the
usual 1e-6 belongs to the **sum**, so the reduction is always stated.
"""

from typing import Literal

from torch import Tensor

KLReduction = Literal["mean", "sum"]


def gaussian_kl(mean: Tensor, logvar: Tensor, reduction: KLReduction) -> Tensor:
    """Scalar KL in nats, float32 or wider whatever the inputs.

    Args:
        mean: [B, …] posterior means.
        logvar: [B, …] posterior log-variances.
        reduction: ``"sum"`` over the elements of a sample, then mean over the batch (latent
            diffusion, Rombach et al. 2022); ``"mean"`` over every element.
    """
    if mean.dtype.itemsize < 4:
        mean, logvar = mean.float(), logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    if reduction == "sum":
        return kl.flatten(1).sum(1).mean()
    return kl.mean()
