"""Images changed as told, by generators trained on edits: (source, instruction, result)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.encoders.text.base import TextEncoder
from latentsmith.errors import UserError
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.samplers import SamplerConfig


def edit(
    generator: LatentGenerator,
    images: Tensor,
    instructions: Sequence[str],
    *,
    sampler: SamplerConfig,
    guidance: GuidanceConfig,
    indices: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    encoder: TextEncoder | None = None,
    batch_size: int = 64,
) -> Tensor:
    """The images, each changed as its instruction says, [N, C, H, W] in [0, 1], on the CPU.

    Result i is a pure function of (image, instruction, seed, indices[i]): to have several, repeat
    them. The batch size does not matter (beyond the last digits of the network's arithmetic).

    Args:
        images: [N, C, H, W] in [0, 1], of the generator's resolution and channels.
        instructions: one for each image, or one for all.
        guidance: usually kind ``edit``, which has a scale for the text and one for the image.
        indices: which noise each gets [N]; default 0 … N − 1.
        encoder: the generator's text encoder, where it is loaded already.

    Raises:
        UserError: a generator that was not trained on edits or has no autoencoder, another number
            of instructions, or images that do not fit the generator.
    """
    check_edits(generator)
    if isinstance(instructions, str) or len(instructions) not in (1, len(images)):
        given = 1 if isinstance(instructions, str) else len(instructions)
        raise UserError(
            f"{given} instruction(s) for {len(images)} images: give a list with one for each, or "
            "with one for all"
        )
    source = generator.normalizer.normalize(generator.encode(images, batch_size=batch_size))
    unique = {text: row for row, text in enumerate(dict.fromkeys(instructions))}
    told = generator.prompt(list(unique), encoder=encoder)
    rows = torch.tensor([unique[text] for text in instructions]).expand(len(images))
    where = torch.as_tensor(range(len(images)) if indices is None else indices, dtype=torch.int64)
    made = generator.sample_latents(
        where,
        sampler=sampler,
        guidance=guidance,
        seed=seed,
        condition={name: value[rows] for name, value in told.items()} | {"source": source},
        batch_size=batch_size,
    )
    return generator.decode(made, batch_size=batch_size)


def check_edits(generator: LatentGenerator) -> None:
    """Raises UserError when the generator was not trained to change a given image: its network
    cannot be given one, or its training says it never was (``training["edits"]`` is false)."""
    if not generator.backbone.edits or generator.info.training.get("edits") is False:
        raise UserError(
            "this generator was not trained on edits: use variation or inpaint, which need no such "
            "training"
        )
