"""A store of few texts in memory: from a sample's number, or its class, to what its text says."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.layout import row_bytes
from latentsmith.stores.texts import NONE, stored_texts
from latentsmith.utils.files import atomic_path

FILE_NAME = "texts.safetensors"

MOST_BYTES = 4 << 30
"""1,001 class names of SD-1.5 take 118 MB. What is larger is read row by row from its store."""


class TextTable(nn.Module):
    """Token embeddings of every text of a store, on the device of the network beside it; neither
    trained nor saved in checkpoints.

    Args:
        embedding: [T, L, E], the empty prompt last.
        of_sample: row of each sample's text, int64 [S], -1 where it has none. Class names: samples
            are the classes.
        pooled: [T, P], the whole texts', where the encoder gives networks such (SDXL).
        mask: [T, L], bool or int64, 1 where there is a token and not padding; None: not known.
        name: for messages.
    """

    embedding: Tensor
    of_sample: Tensor
    pooled: Tensor | None
    mask: Tensor | None

    def __init__(
        self,
        embedding: Tensor,
        of_sample: Tensor,
        *,
        pooled: Tensor | None = None,
        mask: Tensor | None = None,
        name: str = "texts",
    ):
        super().__init__()
        self.name = name
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("of_sample", of_sample, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    @classmethod
    def of(cls, store: FeatureStore) -> "TextTable":
        """Read a whole store of texts.

        Raises:
            UserError: no store of token embeddings, or one too large to hold.
        """
        fields, path = store.manifest.fields, Path(store.path)
        if store.manifest.content != "text" or len(fields["embedding"].shape) != 2:
            raise UserError(
                f"{path} holds no token embeddings of texts: make it with `latentsmith cache text` "
                "and text_encoder.output=sequence"
            )
        read = [name for name in ("embedding", "pooled", "mask") if name in fields]
        size = sum(row_bytes(fields[name]) for name in read) * len(store)
        if size > MOST_BYTES:
            raise UserError(
                f"the {len(store):,} texts of {path} take {size / 1e9:.1f} GB, too much to hold "
                f"in memory (at most {MOST_BYTES / 1e9:.1f}): join the store to the latents instead"
            )
        found = store.gather(torch.arange(len(store)), fields=read)
        return cls(**found, of_sample=stored_texts(store).of_sample, name=str(path))

    def save(self, folder: Path) -> Path:
        """Write ``texts.safetensors`` into ``folder``."""
        tensors = {"embedding": self.embedding, "of_sample": self.of_sample} | self._optional()
        with atomic_path(Path(folder) / FILE_NAME) as tmp:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, tmp)
        return Path(folder) / FILE_NAME

    @classmethod
    def load(cls, folder: Path) -> "TextTable":
        """What `save` wrote; tables of before masks were kept have none. Raises UserError when it
        is missing or damaged."""
        path = Path(folder) / FILE_NAME
        try:
            return cls(**load_file(path), name=str(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): save it again") from error

    def __len__(self) -> int:
        """Different texts, the empty one among them."""
        return len(self.embedding)

    @property
    def null(self) -> Tensor:
        """The empty prompt [L, E]."""
        return self.embedding[-1]

    @property
    def null_pooled(self) -> Tensor | None:
        """The empty prompt's pooled embedding [P]; None where texts have none."""
        return None if self.pooled is None else self.pooled[-1]

    @property
    def null_mask(self) -> Tensor | None:
        """The empty prompt's mask [L]; None where masks are not known."""
        return None if self.mask is None else self.mask[-1]

    def forward(self, samples: Tensor) -> Tensor:
        """Numbers of samples, or classes, int64 [B] → their texts [B, L, E]. Raises UserError as
        `condition`."""
        return self.embedding[self._rows(samples)]

    def condition(self, samples: Tensor) -> dict[str, Tensor]:
        """Numbers of samples, or classes, int64 [B] → what a network is told of them: ``text``
        [B, L, E] and, where texts have it, ``pooled`` [B, P] and ``mask`` [B, L].

        Raises:
            UserError: a number that is not there, or a sample without text (on a CPU, where
                looking does not wait).
        """
        rows = self._rows(samples)
        return {
            "text": self.embedding[rows],
            **{name: value[rows] for name, value in self._optional().items()},
        }

    def _optional(self) -> dict[str, Tensor]:
        """What not every encoder's texts have, by name."""
        found = {"pooled": self.pooled, "mask": self.mask}
        return {name: value for name, value in found.items() if value is not None}

    def _rows(self, samples: Tensor) -> Tensor:
        """Rows int64 [B] of samples' texts. Raises UserError as `condition`."""
        rows = self.of_sample
        samples = samples.to(rows.device)
        if rows.device.type == "cpu":
            wrong = (samples < 0) | (samples >= len(rows))
            wrong |= rows[samples.clamp(0, len(rows) - 1)] == NONE
            if bool(wrong.any()):
                raise UserError(
                    f"{self.name} has no text of number {int(samples[wrong][0])}: it has those of "
                    f"{len(rows)} samples or classes"
                )
        return rows[samples]
