"""int8 codes: the stated error bound, channels, and what has no range."""

import pytest
import torch
from torch import Tensor

from latentsmith.stores import quantize as q
from latentsmith.stores.quantize import dequantize, quantize


def naive(values: Tensor) -> tuple[Tensor, Tensor]:
    """Decoded values and scale by definition, one channel of one row after another, in float64."""
    out, scales = torch.empty_like(values, dtype=torch.float64), []
    for row, target in zip(values.double(), out, strict=True):
        lines = row.reshape(-1, row.shape[-1]).T if row.ndim > 1 else row[None]  # [channels, n]
        decoded = []
        for line in lines:
            low, high = line.min(), line.max()
            scale = (high - low) / 255
            codes = ((line - low) / scale).round() if scale > 0 else torch.zeros_like(line)
            assert codes.max() <= 255
            decoded.append(low + scale * codes)
            scales.append(scale)
        stacked = torch.stack(decoded)
        target.copy_((stacked.T if row.ndim > 1 else stacked[0]).reshape(row.shape))
    return out, torch.stack(scales).reshape(len(values), -1)


@pytest.mark.parametrize("shape", [(9, 5), (7,), (2, 3, 4), ()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 1 << 16])
def test_codes_are_those_of_the_definition_and_the_error_half_a_step(
    monkeypatch, shape, dtype, chunk
):
    monkeypatch.setattr(q, "CHUNK", chunk)
    rng = torch.Generator().manual_seed(0)
    spread = torch.logspace(-3, 3, shape[-1] if shape else 1)
    values = (torch.randn(11, *shape, generator=rng) * (spread if shape else 1) - 2).to(dtype)
    code, scale, offset = quantize(values)
    assert code.dtype == torch.int8 and code.shape == values.shape
    channels = shape[-1:] if len(shape) > 1 else ()
    assert scale.shape == offset.shape == (11, *channels)
    decoded = dequantize(code, scale, offset, dtype=torch.float64)
    want, scales = naive(values)
    top = float(values.abs().max())
    torch.testing.assert_close(decoded, want, rtol=0, atol=float(scales.max()) + 1e-6 * top)
    error = (decoded - values.double()).abs()
    bound = (
        scale.double()[:, None] / 2 if len(shape) > 1 else scale.double()[:, None]
    ) + 1e-6 * top
    assert (error.reshape(11, -1, *channels) <= bound).all()
    # nearly all agree exactly: only a tie may be rounded the other way
    assert ((decoded - want).abs() <= 1e-6 * top).double().mean() > 0.98


def test_the_ends_of_a_range_are_exact_and_codes_use_all_of_it():
    values = torch.tensor([[-1.0, 0.0, 4.1]])
    code, scale, offset = quantize(values)
    assert code.tolist() == [[-128, -78, 127]]
    torch.testing.assert_close(
        dequantize(code, scale, offset, dtype=torch.float32)[0, ::2], values[0, ::2]
    )


def test_a_channel_without_range_is_exact():
    values = torch.full((2, 6, 3), 0.3).half()
    values[0] = 0
    found = dequantize(*quantize(values))
    assert torch.equal(found, values)


def test_the_widest_range_does_not_overflow():
    values = torch.tensor([[-1.5e38, 0.0, 1.5e38], [-65504, 0, 65504]])
    found = dequantize(*quantize(values), dtype=torch.float32)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, ::2], values[:, ::2])
    half = torch.tensor([[-65504.0, 65504.0]]).half()
    assert torch.equal(dequantize(*quantize(half)), half)


def test_a_value_depends_on_its_row_alone():
    values = torch.randn(8, 5, 4)
    whole = dequantize(*quantize(values))
    for row in range(8):
        assert torch.equal(dequantize(*quantize(values[row : row + 1])), whole[row : row + 1])


def test_no_rows_are_fine():
    code, scale, offset = quantize(torch.empty(0, 5, 4))
    assert dequantize(code, scale, offset).shape == (0, 5, 4)


def test_unit_tokens_keep_their_length_and_direction():
    tokens = torch.nn.functional.normalize(torch.randn(4, 64, 96), dim=-1)
    found = dequantize(*quantize(tokens.half()), dtype=torch.float32)
    assert (found.norm(dim=-1) - 1).abs().max() < 0.01
    assert torch.cosine_similarity(found, tokens, dim=-1).min() > 0.999
