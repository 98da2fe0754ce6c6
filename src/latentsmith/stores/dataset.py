"""Stores for `torch.utils.data.DataLoader`, where every sample needs Python of its own.

`StoreBatches` is many times faster, see benchmarks/store_reading.py; this is for transforms of
single samples, and for code that brings its own DataLoader.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentsmith.stores.base import FeatureStore
from latentsmith.stores.joined import Joined

Transform = Callable[[dict[str, Any]], Any]
"""Sample → what the DataLoader collates."""


class StoreDataset(Dataset[Any]):
    """Readable rows of one store, or of several joined by key; see `Joined`.

    Sample i is ``{"index": its row, field: Tensor […], …}``, after ``transform``. A DataLoader
    asks for whole batches (``__getitems__``), which are gathered by one call. Files are opened in
    the process that reads them: workers may be forked or spawned.

    Raises:
        UserError: as `Joined`.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore] | FeatureStore,
        *,
        fields: Sequence[str] | None = None,
        rows: Mapping[str, Tensor] | None = None,
        transform: Transform | None = None,
    ):
        self.joined = Joined(stores, fields=fields, rows=rows)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples. Raises IndexError."""
        for index in indices:
            if not -len(self) <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
        rows = self.joined.readable[torch.as_tensor(indices, dtype=torch.int64)]
        found = self.joined.gather(rows)
        samples = [
            {"index": row, **{name: values[i] for name, values in found.items()}}
            for i, row in enumerate(rows.tolist())
        ]
        return samples if self.transform is None else [self.transform(s) for s in samples]
