"""Where the photographs may come from, and the small copies that are kept of them.

The originals have up to 24 megapixels, all of them most of a gigabyte of memory: each is checked,
decoded and made small in turn, once; from then on only the small copies are read.
"""

import hashlib
import tempfile
from pathlib import Path

from torch import Tensor

from latentsmith.data.base import CorruptSample
from latentsmith.data.debian import unpacked
from latentsmith.data.decode import decode_image
from latentsmith.data.found import Unavailable, first_found
from latentsmith.data.transforms import resize
from latentsmith.data.wallpapers.pictures import PACKAGES, PICTURES, Picture
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_folder

SIDE = 960
"""Longer side of the small copies in pixels; all originals are larger."""
ROOT = Path("/")
"""Below which installed packages lie."""
_ORIGIN = "origin.txt"

Found = tuple[dict[str, Tensor], str]
"""Name → photograph uint8 [3, H, W] with a longer side of `SIDE`, by name; origin."""


def find(folder: Path | None, cache: Path) -> Found:
    """All photographs, small, from the first source that has them.

    Args:
        folder: where the user unpacked the packages; when given, nothing else is tried.
        cache: small copies are kept in ``cache / "wallpapers"``.

    Raises:
        UserError: no source has them; names each and why it failed.
    """
    kept = cache / "wallpapers"
    if folder is not None:
        try:
            return _given(Path(folder).expanduser(), kept)
        except Unavailable as error:
            raise UserError(f"data.folder for wallpapers: {error}") from error
    return first_found(
        "Photographs of Debian's wallpapers",
        [
            ("small copies of an earlier time", lambda: _kept(kept)),
            ("Debian's installed packages", lambda: _installed(kept)),
            ("the Debian packages, downloaded", lambda: _downloaded(kept)),
        ],
        setting="data.folder=/where/the/packages/were/unpacked",
        advice=f"Install them (apt-get install {' '.join(PACKAGES)}), give such a folder, or go "
        "online. Photographs that need nothing: data=photos.",
    )


def small_copies(root: Path) -> dict[str, Tensor]:
    """Every photograph below ``root``, checked, decoded and made small, one at a time.

    Raises:
        Unavailable: one is missing or has another SHA-256.
    """
    return {picture.name: _small(picture, root / picture.path) for picture in PICTURES}


def _small(picture: Picture, path: Path) -> Tensor:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} (package {picture.package}) cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != picture.sha256:
        raise Unavailable(
            f"{path} is another picture: its SHA-256 is {found}, expected {picture.sha256}"
        )
    return made_small(decode_image(content, "rgb", str(path)), SIDE)


def made_small(picture: Tensor, side: int) -> Tensor:
    """uint8 [3, H, W] → the same with a longer side of ``side`` pixels, antialiased."""
    scale = side / max(picture.shape[1:])
    height, width = (round(scale * length) for length in picture.shape[1:])
    return resize(picture, (height, width))


def _given(folder: Path, kept: Path) -> Found:
    """The user's own, or the small copies made of it."""
    origin = f"folder {folder}"
    if (kept / _ORIGIN).is_file() and (kept / _ORIGIN).read_text().strip() == origin:
        return _kept(kept)
    return _keep(small_copies(folder), origin, kept)


def _installed(kept: Path) -> Found:
    return _keep(small_copies(ROOT), f"Debian packages {', '.join(PACKAGES)}", kept)


def _downloaded(kept: Path) -> Found:
    """The packages' files, without installing them: needs no root."""
    with tempfile.TemporaryDirectory(prefix="latentsmith-") as name:
        photographs, debs = dict[str, Tensor](), list[str]()
        for package in PACKAGES:
            work = Path(name) / package
            work.mkdir()
            deb, root = unpacked(package, work)
            debs.append(deb)
            ours = (picture for picture in PICTURES if picture.package == package)
            photographs |= {picture.name: _small(picture, root / picture.path) for picture in ours}
    return _keep(photographs, f"Debian packages {', '.join(debs)}, downloaded", kept)


def _keep(photographs: dict[str, Tensor], origin: str, kept: Path) -> Found:
    """Write the small copies (PNG loses nothing), all or none, and give what was kept."""
    from PIL import Image

    with atomic_folder(kept) as tmp:
        for name, pixels in photographs.items():
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp / f"{name}.png")
        (tmp / _ORIGIN).write_text(origin + "\n")
    return _kept(kept)


def _kept(kept: Path) -> Found:
    if not kept.is_dir():
        raise Unavailable(f"{kept} is not there yet")
    photographs = dict[str, Tensor]()
    try:
        for picture in PICTURES:
            file = kept / f"{picture.name}.png"
            photographs[picture.name] = decode_image(file, "rgb", picture.name)
        origin = (kept / _ORIGIN).read_text().strip()
    except (OSError, CorruptSample) as error:
        raise Unavailable(f"a small copy in {kept} is damaged or missing: {error}") from error
    return photographs, f"{origin} (small copies kept in {kept})"
