"""Images named in a CSV, TSV or JSON-lines file, with captions or with edits."""

from latentsmith.data.image_list.config import ImageListConfig
from latentsmith.data.image_list.dataset import ImageList

__all__ = ["ImageList", "ImageListConfig"]
