"""What the text samplers share: the network's distribution at masked places, and draws from it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.text.tokens.base import UNK_ID
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError

CPU_NUMBERS, GPU_NUMBERS = 2**18, 2**26
"""Numbers drawn from at once, about: 2 MB of float64 stay in a core's cache."""


@schema
class TextSamplerConfig:
    """How texts are decoded."""

    kind: Literal["confidence", "ancestral"] = "confidence"
    """confidence: show the surest tokens first (MaskGIT, LLaDA); ancestral: the diffusion's own
    reverse steps."""
    steps: Annotated[int, Field(ge=1)] = 8
    """Looks at each text. confidence: at most one for each place counts."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the tokens; 0: the likeliest. 1 is the model's own distribution (ancestral wants it)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that make up this share of the probability."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Scale of classifier-free guidance away from texts without a latent; 1: none, and half the
    cost."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """confidence: how many places are still masked after each step; cosine shows few at first."""
    unknown: bool = True
    """Whether [UNK] may be written: true texts have it in the place of rare words, readers have no
    use for it."""


@dataclass(frozen=True)
class TextSample:
    """Decoded texts.

    Attributes:
        tokens: int64 [B, L], without masks.
        confidence: geometric mean of the probability of the tokens that were drawn [B].
        nfe: looks of the network at each text.
    """

    tokens: Tensor
    confidence: Tensor
    nfe: int


@dataclass
class Canvas:
    """Texts half decoded.

    Attributes:
        tokens: int64 [B, L], the mask where nothing is known yet.
        real: bool [B, L], places that hold text; None: all.
        log_p: float64 [B], summed log-probability of the tokens drawn so far.
        drawn: int64 [B], how many.
        nfe: looks so far.
    """

    tokens: Tensor
    real: Tensor | None
    log_p: Tensor
    drawn: Tensor
    nfe: int = 0

    @classmethod
    def blank(cls, model: TextLatentModel, count: int, given: Tensor | None) -> "Canvas":
        """All masked, or ``given`` int64 [count, L] with the mask at the places to fill in.

        Raises:
            UserError: ``given`` of another number of texts.
        """
        tokens = model.absent_text(count) if given is None else given.clone()
        if len(tokens) != count:
            raise UserError(f"{len(tokens)} given texts for {count} latents: give one for each")
        log_p = torch.zeros(count, dtype=torch.float64, device=tokens.device)
        return cls(tokens, model.process.real(tokens), log_p, torch.zeros_like(log_p).long())

    def masked(self, model: TextLatentModel) -> Tensor:
        """Places not known yet, bool [B, L]."""
        return self.tokens == model.process.mask

    def put(self, places: Tensor, tokens: Tensor, log_p: Tensor) -> None:
        """Write tokens [B, L] with their log-probabilities [B, L] at ``places`` bool [B, L]; all
        others are carried over."""
        self.tokens = torch.where(places, tokens, self.tokens)
        self.log_p = self.log_p + torch.where(places, log_p, 0.0).sum(1)
        self.drawn = self.drawn + places.sum(1)

    def sample(self, model: TextLatentModel) -> TextSample:
        """The finished texts. After EOS comes nothing else, as in training."""
        confidence = (self.log_p / self.drawn.clamp(min=1)).exp()
        return TextSample(model.process.fill_after_eos(self.tokens), confidence, self.nfe)


@dataclass(frozen=True)
class Odds:
    """What the network says of the tokens at M masked places.

    Attributes:
        given: logits [M, V], impossible tokens at −∞.
        free: the same without the latent, where there is guidance.
        guidance: scale s of  log p(y) + s (log p(y | z) − log p(y)), then normalized.
        places: flat int64 [M].
    """

    given: Tensor
    places: Tensor
    free: Tensor | None = None
    guidance: float = 1.0

    def log_p(self, rows: slice = slice(None)) -> Tensor:
        """Log-probabilities of some places, float64 [m, V]."""
        given = self.given[rows].double().log_softmax(-1)
        if self.free is None:
            return given
        free = self.free[rows].double().log_softmax(-1)
        possible = free.isfinite()
        mixed = torch.where(possible, free + self.guidance * (given - free), -torch.inf)
        return mixed.log_softmax(-1)

    def guess(self, config: TextSamplerConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A token for each place and its log-probability [M] each. A few places at a time: float64
        of all of them, times a wide vocabulary, goes to memory and back at every operation."""
        tokens, sure = [], []
        count, size = self.given.shape
        step = max(1, (CPU_NUMBERS if self.given.device.type == "cpu" else GPU_NUMBERS) // size)
        for first in range(0, count, step):
            log_p = self.log_p(slice(first, first + step))
            if not config.unknown:
                log_p[:, UNK_ID] = -torch.inf
            tokens.append(draw(log_p, config.temperature, config.top_p, rng))
            sure.append(log_p.gather(-1, tokens[-1][:, None]).squeeze(-1))
        if not tokens:
            none = self.places.new_zeros(0)
            return none, none.double()
        return torch.cat(tokens), torch.cat(sure)


def masked_odds(
    model: TextLatentModel,
    canvas: Canvas,
    latents: Tensor,
    t_text: Tensor,
    t_lat: Tensor,
    guidance: float,
    rng: torch.Generator,
) -> Odds:
    """The network's word on the masked places.

    Args:
        latents: [B, …] at times ``t_lat`` [B].
        guidance: away from texts without a latent, see `Odds`: the network's with fresh noise at
            t_lat = 1 for a latent.
    """
    masked = canvas.masked(model)
    places = masked.flatten().nonzero().squeeze(1)
    canvas.nfe += 1 if guidance == 1 else 2

    def look(z: Tensor, t: Tensor) -> Tensor:
        out = model(canvas.tokens, z, t_text, t, positions=places, latent=False, real=canvas.real)
        assert out.logits is not None
        return model.process.subs(out.logits)

    given = look(latents, t_lat)
    if guidance == 1:
        return Odds(given, places)
    noise = torch.randn(latents.shape, generator=rng, device=latents.device)
    free = look(noise.to(latents), torch.full_like(t_lat, model.t_max))
    return Odds(given, places, free, guidance)


def draw(log_p: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> Tensor:
    """Tokens int64 [M] from log-probabilities float64 [M, V].

    By the Gumbel trick in float64: in float32 its tail is cut off, which acts like a lower
    temperature (Zheng et al. 2024, arXiv 2409.02908).
    """
    if temperature == 0:
        return log_p.argmax(-1)
    scaled = nucleus((log_p / temperature).log_softmax(-1), top_p)
    u = torch.rand(scaled.shape, generator=rng, device=scaled.device, dtype=torch.float64)
    return (scaled - u.log_().neg_().log_()).argmax(-1)


def nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """−∞ for all but the likeliest tokens whose probabilities reach ``top_p`` (Holtzman et al.
    2020); the likeliest always stays. [M, V] → [M, V]."""
    if top_p == 1:
        return log_p
    ranked, order = log_p.sort(-1, descending=True)
    before = ranked.exp().cumsum(-1) - ranked.exp()
    kept = ranked.masked_fill(before >= top_p, -torch.inf)
    return torch.full_like(log_p, -torch.inf).scatter(-1, order, kept)


def spread_out(values: Tensor, places: Tensor, like: Tensor, fill: float) -> Tensor:
    """values [M] at flat ``places`` of [B, L], ``fill`` elsewhere, in the dtype of values."""
    full = torch.full((like.numel(),), fill, dtype=values.dtype, device=values.device)
    full[places] = values
    return full.view(like.shape)
