"""A field of a store as a column beside a dataset's samples."""

from torch import Tensor

from latentsmith.stores.base import FeatureStore


class StoreColumn:
    """Rows of one field, read from disk as they are asked for: what `latentsmith.data.loader`
    takes where a tensor would not fit in memory.

    Args:
        store: one row per sample of the dataset, in its order.
        field: which field.

    Attributes:
        shape: (N, …), as a tensor's.
    """

    def __init__(self, store: FeatureStore, field: str):
        self.store, self.field = store, field
        self.shape = (len(store), *store.manifest.fields[field].shape)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows int64 [B] → [B, …]. Raises UserError for rows whose sample was unreadable."""
        return self.store.gather(rows, fields=[self.field])[self.field]
