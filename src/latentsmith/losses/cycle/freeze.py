"""Which parameters may learn from a cycle: four policies, one word each.

Stopping the gradient at the bridge keeps a cycle's loss from reaching the first pass's *output*.
The second pass still trains parameters that the first one also uses, where the two share any (of
MMDiT's, five in six). What is meant by "only L2T learns from the text cycle" is therefore chosen:

policy      learns from the text cycle                        T2L afterwards
detach      every parameter of the second pass                moves
text_side   parameters of the text stream                     moves: attention is joint
exclusive   parameters with no path to the latent output      the same function, bit for bit
separate    the text network, which is one of its own         the same function, bit for bit

and the mirror image for the latent cycle (``latent_side``). Frozen parameters are passed detached
(`torch.func.functional_call`), so that their gradient from the cycle is None and not zero: AdamW
moves a parameter whose gradient is zero. Nobody's ``requires_grad`` is touched.
"""

import copy
from typing import Literal

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import TextLatentNet
from latentsmith.diffusion.text_latent.model import Weights, parameters
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator

Freeze = Literal["detach", "text_side", "latent_side", "exclusive", "separate"]
Output = Literal["text", "latent"]


def learning(network: TextLatentNet, policy: Freeze, output: Output) -> set[str]:
    """Names of the parameters that learn from a cycle whose loss is on ``output``.

    Raises:
        UserError: a policy that the network cannot keep, or one that is for the other cycle.
    """
    share = network.config.share
    names = set(parameters(network))
    if policy == "detach":
        return names
    if policy == "exclusive":
        return reached(network, output) - reached(network, "latent" if output == "text" else "text")
    if policy == "separate":
        if share != "none":
            raise UserError(
                f"freeze=separate needs two networks, and share={share} is one: set "
                "backbone.share=none, or freeze=exclusive"
            )
        return {n for n in names if network.side(n) == output}
    if policy != f"{output}_side":
        raise UserError(
            f"freeze={policy} is for the other cycle: this one's loss is on the {output}, set "
            f"freeze={output}_side"
        )
    if share == "full":
        raise UserError(
            f"freeze={policy} needs streams with weights of their own, and share=full gives them "
            "the same: set backbone.share=streams"
        )
    return {n for n in names if network.side(n) == output}


def detached(network: TextLatentNet, learns: set[str]) -> Weights | None:
    """All parameters but those that learn, detached; None where all learn."""
    frozen = {n: p.detach() for n, p in parameters(network).items() if n not in learns}
    return frozen or None


def reached(network: TextLatentNet, output: Output) -> set[str]:
    """Names of the parameters that ``output`` depends on.

    Asked of a copy with other numbers: at the start gates are 0, and four in five parameters have
    a gradient of exactly 0, whatever depends on them.
    """
    rng = generator(0, "reachability")
    probe = copy.deepcopy(network).cpu().double()
    with torch.no_grad():
        for p in probe.parameters():
            p.requires_grad_(True)
            p.copy_(torch.randn(p.shape, generator=rng, dtype=p.dtype) * 0.2)
    tokens = torch.randint(probe.vocabulary, (2, probe.length), generator=rng)
    latents = torch.randn(2, *probe.latent_shape, generator=rng, dtype=torch.float64)
    times = torch.rand(2, 2, generator=rng, dtype=torch.float64)
    places = torch.arange(tokens.numel()) if output == "text" else None
    out = probe(tokens, latents, *times, positions=places, latent=output == "latent")
    answer: Tensor | None = out.logits if output == "text" else out.latent
    assert answer is not None
    answer.square().sum().backward()
    return {n for n, p in probe.named_parameters() if p.grad is not None and bool(p.grad.any())}
