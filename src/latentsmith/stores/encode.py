"""From computed values to the bytes that are kept, and what may not be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import Content, FieldSpec, StoreManifest
from latentsmith.stores.keys import listed
from latentsmith.stores.layout import parts
from latentsmith.stores.quantize import quantize
from latentsmith.stores.statistics import measure, not_finite, vectors


@dataclass(frozen=True)
class Encoded:
    """Rows of a store, ready to be written.

    Attributes:
        tensors: of each field what `latentsmith.stores.layout.parts` names, [n, …].
        statistics: of each field of floats, over the readable rows.
        unreadable: row → reason; JSON keys are strings.
    """

    tensors: dict[str, Tensor]
    statistics: dict[str, Any]
    unreadable: dict[str, str]


def encode(
    manifest: StoreManifest,
    keys: Sequence[str],
    rows: range,
    values: Mapping[str, Tensor],
    unreadable: Mapping[int, str],
) -> Encoded:
    """Rows ``rows`` of a store.

    Args:
        values: field → [rows, …], on any device.
        unreadable: row → why; its values are not looked at, and zeros are kept.

    Raises:
        UserError: NaN, infinity, or a number beyond the range of how it is stored; names the
            sample.
        ValueError: wrong fields, shapes or rows: the caller's mistake.
    """
    if wrong := [row for row in unreadable if row not in rows]:
        raise ValueError(f"unreadable rows {wrong} are not among {rows}")
    if set(values) != set(manifest.fields):
        raise ValueError(f"fields {sorted(values)}, not {sorted(manifest.fields)}")
    readable = torch.tensor([row not in unreadable for row in rows], dtype=torch.bool)
    tensors, statistics = {}, {}
    for name, spec in manifest.fields.items():
        kept = _kept(name, spec, values[name], readable)
        if kept.is_floating_point():
            found = _checked(name, values[name], kept, readable, manifest.content, keys, rows)
            statistics[name] = found
        if spec.stored == "int8":
            coded = dict(zip(parts(name, spec), quantize(kept), strict=True))
            tensors |= {n: blank(part, readable) for n, part in coded.items()}
        else:
            tensors[name] = kept
    return Encoded(tensors, statistics, {str(row): unreadable[row] for row in sorted(unreadable)})


def _kept(name: str, spec: FieldSpec, values: Tensor, readable: Tensor) -> Tensor:
    """A field's values on the CPU in the dtype they are read as."""
    shape = (len(readable), *spec.shape)
    if values.shape != shape or values.is_floating_point() != spec.dtype.is_floating_point:
        raise ValueError(
            f"{name} must be {list(shape)} to be stored as {spec.stored}, not "
            f"{list(values.shape)} {values.dtype}"
        )
    kept = values.detach().to("cpu", spec.dtype).contiguous()
    return blank(kept, readable)


def blank(values: Tensor, readable: Tensor) -> Tensor:
    """``values`` [n, …] with zeros in the rows that are not readable."""
    if readable.all():
        return values
    return values.index_fill(0, (~readable).nonzero()[:, 0], 0)


def _checked(
    name: str,
    values: Tensor,
    kept: Tensor,
    readable: Tensor,
    content: Content,
    keys: Sequence[str],
    rows: range,
) -> dict[str, Any]:
    """Statistics of the readable rows; raises UserError when they are not finite."""
    found = measure(kept if readable.all() else kept[readable], content)
    if not found:
        return found
    if found["max"] - found["min"] < float("inf"):  # NaN is not less
        if content == "tokens" and found["zeros"]:
            _refuse_zeros(name, kept, readable, keys, rows)
        return found
    wrong = not_finite(kept)
    samples = listed([keys[rows[i]] for i in wrong.tolist()])
    first = values[int(wrong[0])]
    if first.isfinite().all():
        raise UserError(
            f"{name} of sample {samples} reaches {float(first.abs().max()):.4g}, beyond the range "
            f"of {kept.dtype}: store it as bfloat16 or float32"
        )
    # or what computed it has already made a float16 of it
    also = ", or beyond the range of float16 (65,504)" if kept.dtype == torch.float16 else ""
    raise UserError(f"{name} of sample {samples} is NaN or infinite{also}")


def _refuse_zeros(
    name: str, kept: Tensor, readable: Tensor, keys: Sequence[str], rows: range
) -> None:
    """A teacher's token without direction: the sign of a broken image, layer or precision."""
    zero = (vectors(kept, "tokens") == 0).all(-1) & readable[:, None]  # [n, tokens]
    first = int(zero[zero.any(1)][0].nonzero()[0])
    samples = listed([keys[rows[i]] for i in zero.any(1).nonzero()[:, 0].tolist()])
    raise UserError(f"{name} of sample {samples}: token {first} is zero, it has no direction")
