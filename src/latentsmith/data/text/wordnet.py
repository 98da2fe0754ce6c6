"""WordNet 3.0's definitions (Fellbaum 1998): 116,697 short English texts, none like another.

    a whole (a thing or person) of the same kind or category as another

Real sentences of some 11 word pieces, from a Debian package of 6 MB: hard to write back from a
vector, and neither templated nor anybody's private words.
"""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from latentsmith.config.schema import schema
from latentsmith.data.debian import unpacked
from latentsmith.data.found import Unavailable, first_found
from latentsmith.data.text.base import CORPORA, Corpus, CorpusConfig, distinct
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_folder

PACKAGE = "wordnet-base"
DEBIAN_FOLDER = Path("/usr/share/wordnet")
LICENCE = "WordNet 3.0 license, copyright 2006 by Princeton University (free use with this notice)"
SHA256 = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
    "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
}
"""Files read, in this order."""
_ORIGIN = "origin.txt"

Found = tuple[dict[str, str], str]
"""File name → content, origin."""


class BadFile(Unavailable):
    """A file that is missing or not WordNet's. The text says which and why."""


@CORPORA.register("wordnet", help="116,697 definitions of WordNet 3.0, from Debian's wordnet-base")
@schema
class WordNetConfig(CorpusConfig):
    """Definitions of nouns, verbs, adjectives and adverbs, without their examples, in lower case.

    Sources in order: ``folder``; an earlier download in the cache; Debian's installed package
    wordnet-base; the same package downloaded and unpacked without root. Whatever the source, the
    files must have the known SHA-256.
    """

    kind: Literal["wordnet"] = "wordnet"
    folder: Path | None = None
    """Folder with data.noun, data.verb, data.adj and data.adv. When given, no other source is
    tried."""

    def read(self, cache: Path) -> Corpus:
        """See `CorpusConfig.read`. Raises UserError naming every source and why it failed."""
        files, origin = find(self.folder, cache)
        glosses = [gloss for text in files.values() for gloss in definitions(text)]
        return Corpus("wordnet", distinct(glosses, lower=True), origin, LICENCE, len(glosses))


def definitions(text: str) -> list[str]:
    """The definition of every synset of a ``data`` file: what stands between `` | `` and the first
    quoted example. Lines that begin with two blanks are the license."""
    lines = [line for line in text.splitlines() if line and not line.startswith("  ")]
    glosses = (line.partition(" | ")[2] for line in lines)
    return [re.split(r';\s*"', gloss, maxsplit=1)[0].strip() for gloss in glosses]


def find(folder: Path | None, cache: Path) -> Found:
    """The four files from the first source that has them, checked.

    Args:
        folder: the user's own copy; when given, nothing else is tried.
        cache: a download is kept in ``cache / "wordnet"``.

    Raises:
        UserError: no source has them; names each and why it failed.
    """
    kept = cache / "wordnet"
    if folder is not None:
        try:
            return read_folder(Path(folder).expanduser()), f"folder {folder}"
        except BadFile as error:
            raise UserError(f"corpus.folder for WordNet: {error}") from error
    return first_found(
        "WordNet",
        [
            ("an earlier download", lambda: _from_cache(kept)),
            ("Debian's installed package", _from_debian),
            ("the Debian package, downloaded", lambda: _from_download(kept)),
        ],
        setting="corpus.folder=/path/with/data.noun",
        advice=f"Give a folder, or install it (apt-get install {PACKAGE}), or go online.",
    )


def read_folder(folder: Path) -> dict[str, str]:
    """Read and check the four files. Raises BadFile when one is missing or has other content."""
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    return {name: _checked(folder / name, digest) for name, digest in SHA256.items()}


def _checked(path: Path, digest: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise BadFile(f"{path} is not WordNet 3.0's: its SHA-256 is {found}, expected {digest}")
    return content.decode("latin-1")


def _from_cache(kept: Path) -> Found:
    files = read_folder(kept)
    origin = kept / _ORIGIN
    first = origin.read_text().strip() if origin.is_file() else "unknown origin"
    return files, f"{first} (kept in {kept})"


def _from_debian() -> Found:
    return read_folder(DEBIAN_FOLDER), f"Debian package {PACKAGE} ({DEBIAN_FOLDER})"


def _from_download(kept: Path) -> Found:
    with tempfile.TemporaryDirectory(prefix="latentsmith-") as name:
        deb, root = unpacked(PACKAGE, Path(name))
        folder = root / DEBIAN_FOLDER.relative_to("/")
        read_folder(folder)  # check all four before they are kept
        with atomic_folder(kept) as tmp:
            for file in SHA256:
                shutil.copyfile(folder / file, tmp / file)
            (tmp / _ORIGIN).write_text(f"Debian package {deb}, downloaded\n")
    return _from_cache(kept)
