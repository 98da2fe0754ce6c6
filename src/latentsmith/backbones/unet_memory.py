"""What a frozen U-Net costs in memory: narrow weights, layout, recomputation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def narrow_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Store every parameter that takes no gradient in ``dtype``, in place; what trains (LoRA, the
    optimizer's master weights) stays as it is."""
    for parameter in network.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def recompute_where_needed(unet: Any) -> None:
    """Gradient checkpointing of a diffusers U-Net: each residual block and transformer block is
    recomputed in the backward pass, except where there will be none, see `_recomputed`."""
    unet.enable_gradient_checkpointing(gradient_checkpointing_func=_recomputed)


def _recomputed(module: nn.Module, *args: Any) -> Any:
    """``module(*args)``, recomputed in the backward pass if anything in it takes a gradient.

    Frozen blocks before the first trainable one keep nothing anyway; checkpointing them would save
    and restore the state of the random generators for each, for no memory. Never reentrant: that
    sort runs the forward pass without graph, so features taken inside would carry no gradient.
    """
    takes_gradient = any(isinstance(a, Tensor) and a.requires_grad for a in args)
    if takes_gradient or any(p.requires_grad for p in module.parameters()):
        return checkpoint(module, *args, use_reentrant=False)
    return module(*args)
