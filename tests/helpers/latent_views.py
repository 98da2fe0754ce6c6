"""A toy autoencoder on its way through a step, for tests of regularizers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentsmith.losses.regularizer import LatentView, Place
from latentsmith.utils.seeding import generator

CHANNELS, WIDTH, NAME = 4, 6, "encoder"
PLACE = Place(latent_channels=CHANNELS, terms={NAME: 1.0}, token_widths={NAME: WIDTH})
"""Where the toys' regularizers work."""


class Toy(nn.Module):
    """Images [B, 3, H, W] → latents [B, 4, H/2, W/2] and back."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(8, CHANNELS, 1)
        )
        self.decoder = nn.Sequential(nn.ConvTranspose2d(CHANNELS, 8, 2, stride=2), nn.SiLU())
        self.decoder.append(nn.Conv2d(8, 3, 3, padding=1))

    @property
    def last(self) -> Tensor:
        """Weight of the encoder's last layer."""
        return self.encoder[-1].weight  # type: ignore[return-value]


def squared(recon: Tensor, images: Tensor) -> Tensor:
    """Mean squared error."""
    return (recon - images).square().mean()


def batch(count: int = 6, side: int = 8, tokens: int = 16, seed: int = 5) -> dict[str, Tensor]:
    """float64 images, reference vectors and teacher tokens."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(count, 3, side, side, generator=rng, dtype=torch.float64),
        "vectors": torch.randn(count, 5, generator=rng, dtype=torch.float64),
        "tokens": torch.randn(count, tokens, WIDTH, generator=rng, dtype=torch.float64),
    }


def view(
    images: Tensor,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    *,
    vectors: Tensor | None = None,
    tokens: Tensor | None = None,
    last: Tensor | None = None,
    reconstruction: Callable[[Tensor, Tensor], Tensor] = squared,
    step: int = 0,
    smallest: int = 1,
    step_noise_on: torch.device | str = "cpu",
) -> LatentView:
    """What a regularizer sees of these images in one step."""
    latent = encode(images)
    return LatentView(
        latent,
        {} if vectors is None else {NAME: vectors},
        images=images,
        decode=decode,
        reconstruction=reconstruction,
        objective=reconstruction(decode(latent), images),
        step_noise=lambda name: generator(step, name, device=step_noise_on),
        tokens={} if tokens is None else {NAME: tokens},
        last_weight=last,
        smallest=smallest,
    )


def toy_view(toy: Toy, data: dict[str, Tensor], part: slice = slice(None), **more) -> LatentView:
    """The view of (some of) a `batch` through a toy."""
    return view(
        data["image"][part],
        toy.encoder,
        toy.decoder,
        vectors=data["vectors"][part],
        tokens=data["tokens"][part],
        last=toy.last,
        **more,
    )
