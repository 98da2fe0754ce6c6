"""Which parts of a network are its repeated blocks."""

from collections import Counter
from collections.abc import Iterator

from torch import nn


def repeated_blocks(task: nn.Module) -> list[nn.Module]:
    """The members of every outermost list of two or more modules that train and are called, without
    those whose parameters also belong to something else (tied weights)."""

    def places(module: nn.Module) -> Counter[nn.Parameter]:
        found = module.named_parameters(remove_duplicate=False)
        return Counter(p for _, p in found if p.requires_grad)

    everywhere = places(task)

    def alone(block: nn.Module) -> bool:
        return all(count == everywhere[p] for p, count in places(block).items())

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            blocks = _blocks(child) if isinstance(child, nn.ModuleList) else []
            if len(blocks) > 1:
                yield from filter(alone, blocks)
            else:
                yield from walk(child)

    return list(walk(task))


def _blocks(modules: nn.ModuleList) -> list[nn.Module]:
    """Those that train and can be called."""
    return [
        m
        for m in modules
        if type(m).forward is not nn.Module.forward and any(p.requires_grad for p in m.parameters())
    ]
