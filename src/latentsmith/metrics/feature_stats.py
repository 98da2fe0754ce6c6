"""Mean and covariance of features, accumulated in float64, mergeable, saved with what made them."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.utils.digest import state_digest
from latentsmith.utils.distributed import is_distributed, sum_over_ranks, world_size


class FeatureStats:
    """Streaming (n, mean [D], centred second moment M2 [D, D]).

    Centred accumulation (Chan et al. 1979): raw float32 moments lose the small eigenvalues.
    ``update`` per batch, `merge` across workers or shards, in any order; `all_reduce` over ranks.

    Args:
        dim: feature width D.
        space: which features these are, e.g. ``efficientnet_lite0@112:pooled``; only statistics
            of one space can be merged or compared.
        manifest: what else they depend on (encoder, dataset, transform), JSON-able; saved along.
    """

    def __init__(self, dim: int, space: str, manifest: dict[str, Any] | None = None):
        self.space, self.manifest = space, dict(manifest or {})
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.m2 = torch.zeros(dim, dim, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor, space: str) -> "FeatureStats":
        """Statistics of features [N, D]."""
        return cls(features.shape[1], space).update(features)

    @classmethod
    def of_moments(cls, mean: Tensor, cov: Tensor, n: int, space: str) -> "FeatureStats":
        """Statistics published as mean [D] and unbiased covariance [D, D] of n samples.

        Raises UserError for other shapes, NaN, or fewer than 2 samples.
        """
        check_count(n, 2, f"statistics of {space!r}")
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise UserError(
                f"statistics need a mean [D] and a covariance [D, D], "
                f"got {list(mean.shape)} and {list(cov.shape)}."
            )
        out = cls(len(mean), space)
        out.n, out.mean = n, check_finite(mean, "the mean").double().cpu()
        cov = check_finite(cov, "the covariance").double().cpu()
        out.m2 = (cov + cov.T) * ((n - 1) / 2)
        return out

    def update(self, features: Tensor) -> "FeatureStats":
        """Add features [B, D]. Raises UserError for NaN or another width."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(
                f"features of {self.space!r} must be [B, {len(self.mean)}], "
                f"got {list(features.shape)}."
            )
        if len(features) == 0:
            return self
        x = check_finite(features.detach(), "features")
        x = (x if x.is_cuda else x.cpu()).double()  # other accelerators have no float64
        mean = x.mean(0)
        x = x - mean
        return self._add(len(x), mean.cpu(), (x.T @ x).cpu())

    def _add(self, n: int, mean: Tensor, m2: Tensor) -> "FeatureStats":
        total = self.n + n
        delta = mean - self.mean
        self.m2 += m2 + torch.outer(delta, delta) * (self.n * n / total)
        self.mean += delta * (n / total)
        self.n = total
        return self

    def merge(self, other: "FeatureStats") -> "FeatureStats":
        """Add another's samples. Raises UserError when it is of another space."""
        self.check_same_space(other)
        return self if other.n == 0 else self._add(other.n, other.mean, other.m2)

    def all_reduce(self) -> "FeatureStats":
        """New statistics of all processes' samples together, equal on every process, which all
        must call this. Exact: centred on the common mean before anything is summed.

        Raises UserError, on every process, when they hold different spaces.
        """
        if not is_distributed():
            return self
        spaces: list[Any] = [None] * world_size()
        dist.all_gather_object(spaces, (self.space, len(self.mean)))
        if len(set(spaces)) > 1:
            raise UserError(f"the processes hold statistics of different spaces: {spaces}.")
        total = FeatureStats(len(self.mean), self.space, self.manifest)
        total.n = int(sum_over_ranks(torch.tensor(self.n)))
        if total.n == 0:
            return total
        total.mean = sum_over_ranks(self.mean * (self.n / total.n))
        delta = self.mean - total.mean
        total.m2 = sum_over_ranks(self.m2 + torch.outer(delta, delta) * self.n)
        return total

    def check_same_space(self, other: "FeatureStats") -> None:
        """Raises UserError naming both sides when the features were made differently."""
        if self.space != other.space or self.mean.shape != other.mean.shape:
            raise UserError(
                f"feature statistics of {self.space!r} (width {len(self.mean)}) cannot be joined "
                f"with those of {other.space!r} (width {len(other.mean)})."
            )

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance float64 [D, D]. Raises UserError below 2 samples."""
        check_count(self.n, 2, f"covariance of {self.space!r}")
        return self.m2 / (self.n - 1)

    def save(self, path: Path) -> None:
        """One safetensors file; ``n``, ``space``, ``manifest`` and a checksum in its metadata."""
        from safetensors.torch import save_file

        from latentsmith.utils.files import atomic_path

        tensors = {"mean": self.mean, "m2": self.m2}
        meta = {
            "n": self.n,
            "space": self.space,
            "manifest": self.manifest,
            "checksum": state_digest(tensors),
        }
        with atomic_path(Path(path)) as tmp:
            save_file(tensors, tmp, metadata={"feature_stats": json.dumps(meta)})

    @classmethod
    def load(cls, path: Path) -> "FeatureStats":
        """Raises UserError when the file is missing, damaged, or holds something else."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise UserError(f"no feature statistics at {path}.")
        try:
            with safe_open(path, "pt") as f:
                meta: dict[str, Any] = json.loads((f.metadata() or {})["feature_stats"])
                mean, m2 = f.get_tensor("mean"), f.get_tensor("m2")
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} holds no feature statistics ({error}).") from error
        if meta.get("checksum") not in (None, state_digest({"mean": mean, "m2": m2})):
            raise UserError(f"{path} is damaged: its numbers do not match their checksum.")
        out = cls(len(mean), meta["space"], meta.get("manifest"))
        out.n, out.mean, out.m2 = meta["n"], mean, m2
        return out
