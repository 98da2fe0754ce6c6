"""Whether a folder really holds Fashion-MNIST."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latentsmith.data.fashion_mnist.idx import BadFile, read_idx, sha256

SHA256 = {
    "train-images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
"""SHA-256 of the *decoded* bytes: the hub's parquet, Debian's gzip and an unzipped copy are
different files of the same data. (They were taken from files whose own SHA-256 is the published
one, e.g. b0564c3e… for train-images-idx3-ubyte.gz.)"""

FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}
"""File names without ``.gz``."""

PARTS = {"train": ("train-images", "train-labels"), "val": ("t10k-images", "t10k-labels")}


def check(part: str, values: Tensor, where: str) -> Tensor:
    """``values`` if they are that part of Fashion-MNIST. Raises BadFile naming both digests."""
    digest = sha256(values)
    if digest != SHA256[part]:
        raise BadFile(
            f"{part} from {where} is not Fashion-MNIST's: SHA-256 of its data is {digest}, "
            f"expected {SHA256[part]}"
        )
    return values


def read_folder(folder: Path, parts: Sequence[str]) -> list[Tensor]:
    """Read and check some of the four files: images uint8 [N, 28, 28], labels uint8 [N].

    Raises:
        BadFile: one is missing, unreadable or has other content.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    out = []
    for part in parts:
        name = FILES[part]
        path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
        if path is None:
            raise BadFile(f"{folder} has no {name}.gz")
        out.append(check(part, read_idx(path), str(path)))
    return out
