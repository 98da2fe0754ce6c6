"""A folder at a URL, by fsspec: ``s3://``, ``gs://``, ``hf://``, ``file://``, ``memory://``…"""

import os
import re
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""Protocol → the package that speaks it, where it is not fsspec itself."""


def is_url(place: object) -> bool:
    """Whether a place is a URL and no path of this machine."""
    return isinstance(place, str) and re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


class Place:
    """A folder at a URL.

    Args:
        url: of the folder.

    Raises:
        UserError: a protocol that nothing installed speaks.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._files: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_files": None}  # connections stay in their process

    @property
    def files(self) -> Any:
        """The fsspec file system; made when first asked for, in each process."""
        if self._files is None:
            self._files = self._connect()
        return self._files

    def _connect(self) -> Any:
        import fsspec

        protocol = self.url.split("://")[0]
        try:
            return fsspec.filesystem(protocol)
        except ImportError as error:
            package = PACKAGES.get(protocol)
            how = f"install it: pip install {package}" if package else str(error)
            raise UserError(f"{self.url}: nothing installed speaks {protocol}:// ({how})") from None
        except ValueError:
            raise UserError(
                f"{self.url}: no protocol {protocol}:// is known. Known are, among others, s3, gs, "
                "hf, https, file and memory"
            ) from None

    def at(self, name: str) -> str:
        """URL of a file in it."""
        return f"{self.url}/{name}".rstrip("/")

    def has(self, name: str) -> bool:
        """Whether a file is there. Raises UserError when the place cannot be asked."""
        with self.told(name):
            return bool(self.files.exists(self.at(name)))

    def sizes(self) -> dict[str, int]:
        """Files that lie in it, name → bytes; none where there is no such folder."""
        with self.told(""):
            if not self.files.exists(self.url):
                return {}
            found = self.files.ls(self.url, detail=True)
        files = [one for one in found if one["type"] == "file"]
        return {str(one["name"]).rsplit("/", 1)[-1]: int(one["size"]) for one in files}

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from there to ``target``. Raises UserError when it is not there, or cannot
        be read."""
        with self.told(name):
            self.files.get_file(self.at(name), os.fspath(target))

    def put(self, source: Path, name: str) -> None:
        """Copy a file to there. Raises UserError when it cannot be written."""
        with self.told(name):
            self.files.makedirs(self.url, exist_ok=True)
            self.files.put_file(os.fspath(source), self.at(name))

    def told(self, name: str) -> "_Told":
        """Names the file in errors of the file system."""
        return _Told(self.at(name))


class _Told:
    """See `Place.told`."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"nothing at {self.where}") from error
        if isinstance(error, UserError) or not isinstance(error, Exception):
            return
        # every protocol has errors of its own: what they share is that the place did not answer
        raise UserError(
            f"{self.where} cannot be reached: {type(error).__name__}: {error}. Is the address "
            "right, and may you read (or write) there?"
        ) from error
