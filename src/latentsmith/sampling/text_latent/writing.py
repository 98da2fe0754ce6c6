"""What a user asks a `Translator` for: texts of latents, round trips, gaps filled, pairs drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from latentsmith.encoders.text import TextEncoder
from latentsmith.errors import UserError
from latentsmith.sampling.samplers.base import SamplerConfig
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.text_latent.both import joint, sequential
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.search import Candidates, search
from latentsmith.sampling.text_latent.tokens import TextSample, TextSamplerConfig
from latentsmith.sampling.text_latent.translator import BATCH, Translator

Rerank = Literal["model", "encoder", "none"]
Way = Literal["sequential", "text_first", "joint"]
GAP = "[MASK]"
"""A token to fill in, in a text given to `infill`."""


@dataclass(frozen=True)
class Written:
    """A text of a latent.

    Attributes:
        text: the best.
        distance: of the latent it is read back as from the one it was written for, normalized;
            None where nobody read it.
        others: the other candidates with their distances, best first.
    """

    text: str
    distance: float | None
    others: tuple[tuple[str, float | None], ...] = ()

    def row(self) -> dict[str, object]:
        """JSON-able."""
        found: dict[str, object] = {"text": self.text}
        if self.distance is not None:
            found["distance"] = round(self.distance, 6)
        if self.others:
            found["others"] = [
                {"text": text} | ({} if off is None else {"distance": round(off, 6)})
                for text, off in self.others
            ]
        return found


def invert(
    translator: Translator,
    latents: Tensor,
    config: TextSamplerConfig,
    *,
    candidates: int = 1,
    rounds: int = 0,
    rerank: Rerank = "model",
    encoder: TextEncoder | None = None,
    seed: int = 0,
) -> list[Written]:
    """Texts of raw latents [N, D] or [N, K0, D].

    Args:
        candidates: texts drawn for each; above 1 with a temperature, else all are the same.
        rerank: who says which is best: the model's own other direction, the ``encoder``, or none
            (the surest text comes first).
        rounds: of a search that writes parts of the candidates anew and keeps the best.

    Raises:
        UserError: latents that do not fit, candidates or rounds without temperature, rounds that
            nobody judges, or no encoder to ask.
    """
    if rounds and config.temperature == 0:
        raise UserError(
            f"{rounds} rounds at temperature 0 write the same again: set a temperature above 0"
        )
    if rounds and rerank == "none":
        raise UserError(f"{rounds} rounds and rerank=none: nobody would say which text is better")
    if candidates > 1 and config.temperature == 0:
        raise UserError(
            f"{candidates} candidates at temperature 0 are one text {candidates} times: set a "
            "temperature above 0"
        )
    if rerank == "encoder" and encoder is None:
        raise UserError("rerank=encoder needs the text encoder: load it, or use rerank=model")
    z = translator.normalized(latents).to(translator.model.device)
    rng = torch.Generator(z.device).manual_seed(seed)
    model, found = translator.model, list[Written]()
    for part in z.split(max(1, BATCH // candidates)):
        if rerank == "none":
            made = _surest(decode(model, part.repeat_interleave(candidates, 0), config, rng), part)
        else:
            read = partial(_read, translator, encoder) if rerank == "encoder" else None
            made = search(model, part, config, rng, candidates=candidates, rounds=rounds, read=read)
        found += _written(translator, made, told=rerank != "none")
    return found


def _read(translator: Translator, encoder: TextEncoder | None, tokens: Tensor) -> Tensor:
    """What the encoder makes of token rows [M, L], normalized."""
    assert encoder is not None
    said = translator.tokenizer.decode(tokens.cpu())
    embedded = encoder([text or " " for text in said]).embedding
    return translator.normalized(embedded.cpu()).to(tokens.device)


def _surest(texts: TextSample, latents: Tensor) -> Candidates:
    """Texts that nobody reads, the surest of each latent first."""
    rows = len(latents), -1
    confidence = texts.confidence.view(rows)
    order = confidence.argsort(dim=1, descending=True, stable=True)
    tokens = texts.tokens.view(*rows, texts.tokens.shape[1])
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return Candidates(tokens, torch.zeros_like(confidence), confidence.gather(1, order), texts.nfe)


def _written(translator: Translator, made: Candidates, *, told: bool) -> list[Written]:
    """``told``: with distances."""
    said = iter(translator.tokenizer.decode(made.tokens.flatten(0, 1).cpu()))
    found = []
    for off in made.off.tolist():
        ranked = [(next(said), distance if told else None) for distance in off]
        found.append(Written(*ranked[0], tuple(ranked[1:])))
    return found


@dataclass(frozen=True)
class RoundTrip:
    """A text, what came back of it by way of a latent, and how far apart the texts' latents are
    (cosine, by the encoder where one was given, else by the model)."""

    text: str
    back: str
    same: bool
    cosine: float


def roundtrip(
    translator: Translator,
    texts: Sequence[str],
    config: TextSamplerConfig,
    *,
    candidates: int = 1,
    rounds: int = 0,
    encoder: TextEncoder | None = None,
    seed: int = 0,
) -> list[RoundTrip]:
    """Texts → latents → texts.

    Args:
        encoder: who makes the first latents and judges; None: the model.

    Raises:
        UserError: as `invert` and `Translator.encode`.
    """

    def embed(some: Sequence[str]) -> Tensor:
        if encoder is None:
            return translator.encode(some, seed=seed).flatten(1)
        return encoder([text or " " for text in some]).embedding.cpu()

    first = embed(texts)
    written = invert(translator, first, config, candidates=candidates, rounds=rounds, seed=seed)
    back = [w.text for w in written]
    cosine = torch.cosine_similarity(first, embed(translator.cut(back))).tolist()
    given = translator.tokenizer.decode(translator.number(texts))
    rows = zip(texts, given, back, cosine, strict=True)
    return [RoundTrip(text, out, shown == out, round(c, 6)) for text, shown, out, c in rows]


def infill(
    translator: Translator,
    texts: Sequence[str],
    config: TextSamplerConfig,
    *,
    latents: Tensor | None = None,
    seed: int = 0,
) -> list[str]:
    """Texts with their gaps filled in: each ``[MASK]`` becomes one token.

    Args:
        latents: raw [N, D] or [N, K0, D], what the texts are to say; None: nothing is known of it.

    Raises:
        UserError: a text without a gap, too long, or another number of latents.
    """
    tokens = gaps(translator, texts).to(translator.model.device)
    rng = torch.Generator(tokens.device).manual_seed(seed)
    absent = latents is None
    if latents is None:
        shape = len(tokens), *translator.model.network.latent_shape
        z = torch.randn(shape, generator=rng, device=tokens.device)
    else:
        z = translator.normalized(latents).to(tokens.device)
        if len(z) != len(tokens):
            raise UserError(f"{len(z)} latents for {len(tokens)} texts: give one for each")
    found = decode(translator.model, z, config, rng, given=tokens, absent=absent)
    return translator.tokenizer.decode(found.tokens.cpu())


def gaps(translator: Translator, texts: Sequence[str]) -> Tensor:
    """Texts with ``[MASK]`` → token rows int64 [N, L] with the mask there. Raises UserError."""
    tokenizer = translator.tokenizer
    split = tokenizer.splitter.split(texts)
    for text, pieces in zip(texts, split, strict=True):
        if GAP not in pieces:
            raise UserError(f"{text!r} has no gap: write {GAP} for each token to fill in")
    tokens = tokenizer.number(split).ids
    for row, pieces in enumerate(split):
        places = [i for i, piece in enumerate(pieces) if piece == GAP]
        tokens[row, places] = tokenizer.mask_id
    return tokens


@dataclass(frozen=True)
class Drawn:
    """``texts``, their ``tokens`` int64 [N, L] and raw ``latents`` [N, K0, D]; all on the CPU."""

    texts: list[str]
    tokens: Tensor
    latents: Tensor


def sample(
    translator: Translator,
    count: int,
    config: TextSamplerConfig,
    *,
    way: Way = "sequential",
    sampler: SamplerConfig | None = None,
    seed: int = 0,
) -> Drawn:
    """New pairs from noise.

    Args:
        way: the latent first, then its text (sequential); the text first; or both together.
        sampler: of latents; None: 16 steps of DDIM.

    Raises:
        UserError: no pairs asked for.
    """
    if count < 1:
        raise UserError(f"count={count}: at least one")
    model = translator.model
    rng = torch.Generator(model.device).manual_seed(seed)
    solver = sampler or DdimConfig(steps=16)
    parts = []
    for first in range(0, count, BATCH):
        some = min(BATCH, count - first)
        if way == "joint":
            parts.append(joint(model, some, replace(config, guidance=1.0), rng))
        else:
            begin = "latent" if way == "sequential" else "text"
            parts.append(sequential(model, some, config, solver, rng, first=begin))
    tokens = torch.cat([part.tokens for part in parts]).cpu()
    latents = torch.cat([part.latents for part in parts])
    return Drawn(translator.tokenizer.decode(tokens), tokens, translator.raw(latents))
