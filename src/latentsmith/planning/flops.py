"""FLOPs of an operator: PyTorch's formulas, and what they do not know.

A multiply-add is two. Counted are products of matrices, convolutions and attention, as everywhere
in the field; norms, activations and the optimizer are left out (they cost memory traffic).
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    """Four products for the forward's two; that kernels compute the scores once more is their
    way of saving memory, not the model's work."""
    return 2 * sdpa_flop_count(query, key, value)


def _convolution_backward(  # PyTorch's takes grouped convolutions for dense ones
    grad: Any, x: Any, weight: Any, _bias: Any, _stride: Any, _padding: Any, _dilation: Any,
    transposed: bool, _output_padding: Any, _groups: int, wanted: Any, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """The gradient of the input and that of the weight each cost what the forward does."""
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad, transposed=transposed)


_OURS: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten.convolution_backward: _convolution_backward,
}
_FORMULAS = FlopCounterMode(display=False, custom_mapping=_OURS).flop_registry


def flops_of(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """FLOPs of one call of an operator, from the shapes of its arguments."""
    formula = _FORMULAS.get(operator._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=out)
