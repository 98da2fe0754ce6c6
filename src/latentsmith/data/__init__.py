"""Images (and what belongs to them) from many sources, in a resumable order."""

from latentsmith.data.base import DATASETS, Dataset, DatasetConfig, Sample

__all__ = ["DATASETS", "Dataset", "DatasetConfig", "Sample"]
