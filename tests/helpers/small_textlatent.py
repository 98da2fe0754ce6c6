"""The smallest textlatent run: captions, and a one-layer sentence encoder made on the spot."""

from pathlib import Path

from helpers.texts import tiny_sentence

WORDS = [
    "scale=smoke", "text_encoder=sentence", "text_encoder.length=32", "train.samples=64",
    "train.validate_every=32", "train.save_every=32", "evaluate.noise_count=16",
]  # fmt: skip


def small_words(folder: Path) -> list[str]:
    """The settings; the encoder lies in ``folder``."""
    return [*WORDS, f"text_encoder.source={tiny_sentence(folder)}"]
