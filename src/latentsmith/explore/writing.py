"""Texts that a page's user wrote, and how texts are written for them."""

from latentsmith.errors import UserError
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig

MOST = 64
"""Texts at once."""


def read_lines(text: str, *, exactly: int | None = None) -> list[str]:
    """The lines that say something.

    Raises:
        UserError: none, too many, or another number than is needed.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if exactly is not None and len(lines) != exactly:
        raise UserError(f"{exactly} texts of one line each are needed: write both")
    if not 1 <= len(lines) <= MOST:
        raise UserError(f"{len(lines)} texts: write 1 to {MOST}, one a line")
    return lines


def sampler(steps: int, candidates: int) -> TextSamplerConfig:
    """The surest tokens first; of several candidates drawn, so that they differ."""
    return TextSamplerConfig(steps=steps, temperature=0.7 if candidates > 1 else 0.0)
