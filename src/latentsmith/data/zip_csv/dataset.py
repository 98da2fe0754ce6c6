"""Images of a ZIP as a dataset."""

from collections.abc import Iterator
from functools import cached_property

from latentsmith.data.base import Sample
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.digests import join_digests
from latentsmith.data.zip_csv.members import Members


class ZipImages:
    """Members of a ZIP as samples ``{"image", "file", "label" (with classes), "caption" (where the
    CSV has them)}``.

    Any number of threads may read it, also in processes that were forked from or spawned by the one
    that opened it: files are opened where they are read.

    Args:
        members: of the samples, in order.
        ids: what the samples are called; unique.
        labels: class index of each, or None.
        captions: of each, or None.
    """

    def __init__(
        self,
        members: Members,
        ids: list[str],
        labels: list[int] | None,
        captions: list[str] | None,
        *,
        name: str,
        classes: list[str] | None,
        mode: Mode,
    ):
        self.members, self.ids = members, ids
        self.labels, self.captions = labels, captions
        self.name, self.classes = name, classes
        self.mode: Mode = mode
        self.origin = f"archive {members.path}"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        file = self.members.names[index]
        where = f"{self.members.path}, member {file}"
        sample: Sample = {
            "image": decode_image(self.members.read(index), self.mode, where),
            "file": file,
        }
        if self.labels is not None:
            sample["label"] = self.labels[index]
        if self.captions is not None:
            sample["caption"] = self.captions[index]
        return sample

    def sample_keys(self) -> list[str]:
        """The samples' ids: what a feature store calls them."""
        return list(self.ids)

    def caption(self, index: int) -> str | None:
        """A sample's caption without decoding its image; None when the CSV has none."""
        return None if self.captions is None else self.captions[index]

    @property
    def digest(self) -> str:
        """Changes with any sample's id, member, bytes, label or caption, and with the mode.

        The bytes go in as the size and CRC-32 that the ZIP's directory states. Nothing needs to be
        read for that, so it is not remembered on disk; and bytes that do not match them are never
        given out (`Members.read`).
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return join_digests(self._parts())

    def _parts(self) -> Iterator[str]:
        yield repr((self.mode, self.classes))
        members = self.members
        for k, (size, crc) in enumerate(
            zip(members.sizes.tolist(), members.crcs.tolist(), strict=True)
        ):
            label = None if self.labels is None else self.labels[k]
            yield repr((self.ids[k], members.names[k], size, crc, label, self.caption(k)))
