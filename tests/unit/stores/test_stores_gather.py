"""Copying rows: every cut, row size and dtype against plain indexing."""

import mmap

import numpy as np
import pytest
import torch

from latentsmith.stores import gather
from latentsmith.stores.gather import RowTables, dequantize_by_chunks
from latentsmith.stores.quantize import dequantize, quantize

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8]


def values(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Different bytes everywhere."""
    size = torch.Size((count, *shape)).numel() * dtype.itemsize
    noise = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(0))
    return noise.to(torch.uint8).view(dtype).view(count, *shape)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaNs too."""
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def mapped(table: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy in a mapping of its own, as a shard's tensor lies behind a header of ``offset``."""
    memory = mmap.mmap(-1, offset + table.nbytes)
    raw = torch.frombuffer(memory, dtype=torch.uint8)[offset:]
    raw.copy_(table.reshape(-1).view(torch.uint8))
    return raw.view(table.dtype).view(table.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_per", [1, 9, 10, 50, 64])
@pytest.mark.parametrize("shape", [(16, 8), (3,), (2, 5, 7)])
def test_rows_are_those_of_plain_indexing(shape, rows_per, dtype):
    truth = values(50, *shape, dtype=dtype)
    tables = RowTables([mapped(t, 128) for t in truth.split(rows_per)], rows_per)
    rows = torch.tensor([49, 0, 10, 9, 9, 25, 0, 48, 11])
    out = torch.empty(len(rows), *shape, dtype=dtype)
    tables.copy(rows, out)
    assert same_bytes(out, truth[rows])
    tables.copy(rows[:0], out[:0])


def test_scalars():
    truth = torch.arange(50) << 40
    tables = RowTables(list(truth.split(7)), 7)
    out = torch.empty(3, dtype=torch.int64)
    tables.copy(torch.tensor([49, 7, 6]), out)
    assert out.tolist() == [49 << 40, 7 << 40, 6 << 40]


@pytest.mark.parametrize("odd", [{0}, {2}, {1, 4}])
def test_shards_whose_header_has_another_length(odd):
    truth = values(25, 2048)
    pieces = [
        mapped(t, 203 if i in odd else 136) for i, t in enumerate(truth.view(torch.uint8).split(5))
    ]
    tables = RowTables(pieces, 5)
    rows = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    out = torch.empty(25, 2048)
    tables.copy(rows, out.view(torch.uint8))
    assert same_bytes(out, truth[rows])


def test_nothing_between_the_mappings_is_read():
    """Touching it would be a fault."""
    memory = mmap.mmap(-1, 64 * mmap.PAGESIZE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    page = mmap.PAGESIZE
    starts = [136, 24 * page + 8, 48 * page + 136]
    tables = [whole[at : at + 4 * page].view(4, page) for at in starts]
    for i, table in enumerate(tables):
        table.copy_(values(12, page, dtype=torch.uint8)[4 * i : 4 * i + 4])
    memory.flush()
    libc = gather.ctypes.CDLL(None)
    libc.mprotect.argtypes = [gather.ctypes.c_void_p, gather.ctypes.c_size_t, gather.ctypes.c_int]
    holes = [(5, 24), (29, 48)]
    try:
        for begin, end in holes:
            assert libc.mprotect(whole.data_ptr() + begin * page, (end - begin) * page, 0) == 0
        out = torch.empty(12, page, dtype=torch.uint8)
        RowTables(tables, 4).copy(torch.arange(12), out)
    finally:
        for begin, end in holes:
            libc.mprotect(whole.data_ptr() + begin * page, (end - begin) * page, 3)
    assert same_bytes(out, values(12, page, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(32,), (7,), ()])
def test_tables_too_far_apart_are_moved_row_by_row(monkeypatch, shape):
    truth = values(20, *shape)
    monkeypatch.setattr(gather, "MOST_NUMBERS", 1000)
    tables = RowTables([mapped(t, 8) for t in truth.split(6)], 6)
    assert tables._memory._rows is None
    out = torch.empty(20, *shape)
    tables.copy(torch.arange(19, -1, -1), out)
    assert same_bytes(out.reshape(20, -1), truth.flip(0).reshape(20, -1))


def test_the_first_and_the_last_byte_can_be_reached():
    whole = torch.arange(64, dtype=torch.uint8)
    memory, out = gather.Memory(whole.data_ptr(), whole.data_ptr() + 64, 5), torch.empty(2, 5)
    out = out.to(torch.uint8)
    memory.copy(np.array([whole.data_ptr() + 59, whole.data_ptr()]), out.numpy())
    assert out.tolist() == [[59, 60, 61, 62, 63], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("chunk", [1, 3000, 1 << 20])
@pytest.mark.parametrize("shape", [(6, 100), (5,), ()])
def test_decoding_by_pieces_gives_the_same_values(monkeypatch, shape, chunk):
    monkeypatch.setattr(gather, "CHUNK", chunk)
    code = quantize(torch.randn(9, *shape, generator=torch.Generator().manual_seed(0)))
    out = torch.empty(9, *shape, dtype=torch.float16)
    dequantize_by_chunks(*code, out=out)
    assert torch.equal(out, dequantize(*code))
