"""``identity``: no projector, as in representation autoencoders (RAE)."""

from typing import ClassVar, Literal

from torch import nn

from latentsmith.autoencoders.projectors.base import PROJECTORS, Grid, ProjectorConfig
from latentsmith.config.schema import schema


@PROJECTORS.register("identity", help="the features are the latent (RAE): full width, no KL")
@schema
class IdentityConfig(ProjectorConfig):
    """Representation autoencoder (Zheng et al. 2025): nothing between features and latent."""

    kind: Literal["identity"] = "identity"
    variational: ClassVar[bool] = False

    def build(self, dim: int, latent: int, grid: Grid) -> tuple[nn.Module, nn.Module]:
        """See `ProjectorConfig.build`. The projector gives means alone."""
        if latent != dim:
            raise ValueError(f"the identity has as many channels as the features: {dim}")
        return nn.Identity(), nn.Identity()
