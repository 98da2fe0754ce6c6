"""The text encoder a generator was trained with, found again to read new prompts; what lies between
two of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.encoders.text.base import TEXT_ENCODERS, TextEncoder, TextEncoderConfig
from latentsmith.errors import UserError
from latentsmith.metrics.interpolation import lerp
from latentsmith.registry import read

log = logging.getLogger(__name__)

BATCH = 64
"""Prompts encoded at once."""


def described(config: TextEncoderConfig, fingerprint: Mapping[str, object]) -> dict[str, Any]:
    """What a generator keeps of its text encoder (`GeneratorInfo.text_encoder`), JSON-able.

    Args:
        config: its settings, from which it is built again.
        fingerprint: `TextEncoder.fingerprint`, or that in a text store's manifest: tells whether
            what was built is the same.
    """
    return {"settings": asdict(config), "fingerprint": dict(fingerprint)}


def text_encoder_of(kept: Mapping[str, Any], *, where: str = "the generator") -> TextEncoder:
    """Build the encoder that `described` wrote down.

    Raises:
        UserError: its weights cannot be had, or are others by now.
    """
    encoder = read(TEXT_ENCODERS, kept["settings"]).build()
    check(encoder, kept, where=where)
    return encoder


def check(encoder: TextEncoder, kept: Mapping[str, Any], *, where: str = "the generator") -> None:
    """Refuse another text encoder than the generator's.

    Raises:
        UserError: its kind, weights, tokenizer, length or output differ, naming both sides.
    """
    now, then = encoder.fingerprint(), kept["fingerprint"]
    wrong = [
        f"its {name} is {_short(now.get(name))}, {where} was trained with {_short(then.get(name))}"
        for name in {**then, **now}
        if now.get(name) != then.get(name)
    ]
    if wrong:
        raise UserError(
            f"{encoder.name} is not the text encoder of {where}: {'; '.join(wrong)}. To the "
            "network another encoder's vectors are noise: use the one it was trained with"
        )


@torch.no_grad()
def read_prompts(encoder: TextEncoder, texts: Sequence[str]) -> Condition:
    """Prompts → ``text`` [N, L, E] float32, ``mask`` bool [N, L] and, of encoders that pool
    (SDXL's), ``pooled`` [N, P]; on the CPU. Warns of prompts that are cut.

    Raises:
        UserError: no prompts.
    """
    if isinstance(texts, str) or not len(texts):
        raise UserError("no prompts: give a list of at least one text")
    seen = [encoder(texts[n : n + BATCH]) for n in range(0, len(texts), BATCH)]
    lost = torch.cat([part.cut for part in seen]).tolist()
    cut = [text for text, lost_end in zip(texts, lost, strict=True) if lost_end]
    if cut:
        log.warning(
            "%d of %d prompts are longer than the %d tokens that are read, and lose their end: %s",
            *(len(cut), len(texts), encoder.length, _start(cut[0])),
        )
    found = {
        "text": torch.cat([part.sequence.cpu() for part in seen]),
        "mask": torch.cat([part.mask.cpu() for part in seen]),
    }
    if encoder.pools:
        found["pooled"] = torch.cat([part.embedding.cpu() for part in seen])
    return found


def between(start: Condition, end: Condition, weights: Tensor) -> Condition:
    """What lies between prompts: (1 - w) start + w end in all that the text encoder made of them.

    The mask goes along, as floats: where the longer prompt has a token and the other padding, it
    counts w of a token in the attention. Under the shorter one's mask it would never be seen; under
    both masks joined it would be there in full from the first step on, however small w is, since
    networks normalize the vectors of a text.

    Args:
        start, end: of N prompts each, as `read_prompts` gives them.
        weights: w in [0, 1], [N]; at 0 and 1 it is exactly what is told to make one of the ends.
    """
    return {name: lerp(start[name].float(), end[name].float(), weights) for name in start}


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) > 24 else text


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
