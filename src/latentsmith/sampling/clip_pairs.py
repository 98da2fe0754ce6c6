"""CLIP's two towers, for the score of generated images against what they were generated from."""

import torch
from torch import Tensor

from latentsmith.encoders.clip import ClipConfig
from latentsmith.encoders.text.clip_text import ClipTextConfig


class ClipPairs:
    """Embeds images and texts into one space.

    Args:
        source: hub id or folder of a whole CLIP model.
        texts: what image i is made from is ``texts[i mod len(texts)]``.
        device: where to compute.

    Raises:
        UserError: the weights cannot be had.
    """

    def __init__(self, source: str, texts: list[str], device: torch.device | str = "cpu"):
        self.image = ClipConfig(source=source).build().to(device)
        text = ClipTextConfig(source=source, output="embedding").build().to(device)
        kinds = {word: n for n, word in enumerate(dict.fromkeys(texts))}
        self.name = source
        self._known = torch.cat([text(part).embedding for part in _parts(list(kinds))]).cpu()
        self._rows = torch.tensor([kinds[word] for word in texts])

    def images(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → [B, D]."""
        return self.image.vector(images)

    def texts(self, numbers: Tensor) -> Tensor:
        """Numbers of images int64 [N] → embeddings of their texts [N, D]."""
        return self._known[self._rows[numbers % len(self._rows)]]


def _parts(texts: list[str], size: int = 256) -> list[list[str]]:
    return [texts[n : n + size] for n in range(0, len(texts), size)]
