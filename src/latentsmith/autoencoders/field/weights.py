"""How the networks of fields start: a function of the seed and the parameters' names."""

from torch import nn

from latentsmith.autoencoders.field.decoders.scan import ScanReader
from latentsmith.autoencoders.field.features import Nearness
from latentsmith.autoencoders.field.planes import Kriging
from latentsmith.backbones.blocks.weights import draw
from latentsmith.backbones.mixers import Mixer
from latentsmith.utils.seeding import generator


def start(network: nn.Module, seed: int) -> None:
    """Draw every weight of ``network`` anew, on the CPU: the same numbers on every device."""
    draw(network, seed, _spread)
    for name, module in network.named_modules():
        if isinstance(module, Nearness | Kriging):
            module.reset()
        elif isinstance(module, Mixer | ScanReader):
            module.reset(generator(seed, "start", name))


def _spread(name: str) -> float | None:
    """See `draw`: modulations, heads, corrections and blocks of convolutions start as nothing."""
    if any(
        part in name for part in ("modulation", "head.weight", "correct.weight", "second.weight")
    ):
        return 0.0
    return 0.02 if "queries" in name else None
