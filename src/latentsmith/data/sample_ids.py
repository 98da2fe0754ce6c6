"""Names for samples, unique over the splits of a dataset."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from latentsmith.data.base import Dataset, Split, keys_of
from latentsmith.data.image_folder import SUFFIXES


def sample_ids(datasets: Mapping[Split, Dataset]) -> dict[Split, list[str]]:
    """An id for each sample of each split, no two alike.

    The first of these rules that gives every sample an id of its own is taken for all of them, so
    that ids look alike:

    1. the file's name without suffix: ``n01440764_10026``
    2. its path: ``cat/0.png`` is ``cat_0``
    3. the split and the path: ``val_cat_0``, or ``val_7`` where samples have numbers only
    4. the split and the sample's number: ``val_00000007``

    They depend on the whole dataset only, not on which part of it is used.
    """
    names = {split: _file_names(data) for split, data in datasets.items()}
    if None in names.values():  # not some samples by files and some by keys
        names = {split: keys_of(data) for split, data in datasets.items()}
    paths = {split: [_path(name) for name in own or []] for split, own in names.items()}
    rules: list[Callable[[Split, int], str]] = [
        lambda split, k: paths[split][k].name,
        lambda split, k: _joined(paths[split][k]),
        lambda split, k: f"{split}_{_joined(paths[split][k])}",
    ]
    for rule in rules:
        ids = _apply(rule, datasets)
        every = [one for own in ids.values() for one in own]
        if all(every) and len(set(every)) == len(every):
            return ids
    return _apply(lambda split, k: f"{split}_{k:08d}", datasets)


def _apply(
    rule: Callable[[Split, int], str], datasets: Mapping[Split, Dataset]
) -> dict[Split, list[str]]:
    return {split: [rule(split, k) for k in range(len(data))] for split, data in datasets.items()}


def _file_names(dataset: Dataset) -> list[str] | None:
    """Where a dataset does not call its samples by their files but knows them."""
    known: Callable[[], list[str] | None] | None = getattr(dataset, "file_names", None)
    return None if known is None else known()


def _path(name: str) -> PurePosixPath:
    """A name without the suffix of an image file, in letters that a ZIP and a CSV can hold."""
    path = PurePosixPath(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _joined(path: PurePosixPath) -> str:
    return "_".join(path.parts)
