"""Images in a ZIP with a CSV of their samples: reading such pairs, and writing them safely."""

from latentsmith.data.zip_csv.config import ZipCSVConfig

__all__ = ["ZipCSVConfig"]
