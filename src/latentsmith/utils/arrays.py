"""Reading NumPy's files from anyone: no pickles, no bombs, every fault a sentence."""

import zipfile
from pathlib import Path

import numpy as np

from latentsmith.errors import UserError

BOMB = 1 << 30
"""Bytes a compressed file may always unpack to; above them it must not grow much more than real
numbers do."""
GROWTH = 200
"""How many times its packed size more than that may be."""


def read_array(file: Path | str) -> np.ndarray:
    """The one array of a ``.npy``.

    Raises:
        UserError: no such file, another format, or objects (they would run code).
    """
    array = _load(file, ".npy")
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{file} holds several named arrays, and one is needed, saved as .npy")
    return array


def read_arrays(file: Path | str) -> dict[str, np.ndarray]:
    """The named arrays of a ``.npz``.

    Raises:
        UserError: no such file, another format, objects (they would run code), or more numbers than
            such a file can honestly hold.
    """
    arrays = _load(file, ".npz")
    if isinstance(arrays, np.ndarray):
        raise UserError(
            f"{file} holds one array without names. Save named ones as np.savez(file, NAME=…)."
        )
    with arrays:
        try:
            return {name: arrays[name] for name in arrays.files}
        except _FAULTS as error:
            raise _unreadable(file, ".npz", error) from error


_FAULTS = (OSError, ValueError, EOFError, zipfile.BadZipFile)


def _load(file: Path | str, suffix: str) -> "np.ndarray | np.lib.npyio.NpzFile":
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {file}: give a {suffix}")
    try:
        _refuse_bomb(path)
        return np.load(path, allow_pickle=False)
    except _FAULTS as error:
        raise _unreadable(file, suffix, error) from error


def _unreadable(file: Path | str, suffix: str, error: Exception) -> UserError:
    why = "damaged, or of another format"
    if "Object arrays" in str(error):
        why = "it holds Python objects, and only numbers are read"
    return UserError(f"{file} is not a readable {suffix} file of numbers ({why})")


def _refuse_bomb(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as opened:
        unpacked = sum(member.file_size for member in opened.infolist())
    packed = path.stat().st_size
    if unpacked > max(BOMB, GROWTH * packed):
        raise UserError(
            f"{path} would unpack from {packed / 1e6:,.1f} MB to {unpacked / 1e9:,.1f} GB, which "
            "no honest file of numbers does: save it anew, uncompressed (np.savez)"
        )
