"""Images named in a list as a dataset."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from latentsmith.data.base import Sample
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.digests import files_digest, join_digests
from latentsmith.data.image_list.columns import FILES


class ImageList:
    """Files as samples ``{"image", "file", "caption" (where the list has them)}``; of edits also
    ``{"target", "target_file", "instruction", "target_caption" (where the list has them)}``.

    Args:
        root: what the names are relative to.
        columns: ``"image"`` and ``"target"`` (names of files) and texts, of each sample in order.
        keys: what the samples are called; unique.
        cache: where the content digest is remembered.
    """

    def __init__(
        self,
        root: Path,
        columns: Mapping[str, Sequence[str]],
        keys: list[str],
        *,
        name: str,
        origin: str,
        mode: Mode,
        cache: Path,
    ):
        self.root, self.columns = root, columns
        self.name, self.origin = name, origin
        self.classes: list[str] | None = None
        self.image_keys = tuple(key for key in FILES if key in columns)
        self.text_keys = tuple(key for key in columns if key not in FILES)
        self.mode: Mode = mode
        self._keys, self._cache = keys, cache

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {}
        for key in self.image_keys:
            name = self.columns[key][index]
            path = self.root / name
            sample[key] = decode_image(path, self.mode, str(path))
            sample["file" if key == "image" else f"{key}_file"] = name
        return sample | {key: self.columns[key][index] for key in self.text_keys}

    def sample_keys(self) -> list[str]:
        """Names of the images where each has one row; else with the line before: ``12/a.png``."""
        return list(self._keys)

    def caption(self, index: int) -> str | None:
        """A sample's caption without decoding its images; None when the list has none."""
        return self._text("caption", index)

    def instruction(self, index: int) -> str | None:
        """A sample's instruction without decoding its images; None when the list has none."""
        return self._text("instruction", index)

    def _text(self, key: str, index: int) -> str | None:
        return self.columns[key][index] if key in self.columns else None

    @property
    def digest(self) -> str:
        """Changes with any file's name or bytes, with any text, and with the mode. Other columns
        and rows of the list do not matter."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        names = dict.fromkeys(name for key in self.image_keys for name in self.columns[key])
        content = files_digest(self.root, [self.root / name for name in names], self._cache)
        rows = zip(*self.columns.values(), strict=True)
        return join_digests([content, self.mode, repr(list(self.columns)), *map(repr, rows)])
