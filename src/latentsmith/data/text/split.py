"""Which texts train and which are held out.

A text's place follows from its own digest and a seed: the smallest digests are the test split, the
next the validation split, then come the training texts. So equal texts are never on both sides,
and the order of the source plays no part.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from latentsmith.errors import UserError

TextSplit = Literal["train", "val", "test"]
SPLITS: tuple[TextSplit, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Counts:
    """How many different texts each split gets; ``train`` None: all that are left."""

    train: int | None
    val: int
    test: int


def text_order(text: str, seed: int) -> bytes:
    """Where a text comes among all. Letter case and white space play no part."""
    same = " ".join(text.casefold().split())
    return hashlib.blake2b(f"{seed}\x1f{same}".encode(), digest_size=16).digest()


def assign(texts: Sequence[str], counts: Counts, seed: int) -> list[TextSplit | None]:
    """The split of each text; None where it is not used.

    Texts that differ in letter case or white space only count once and go to one split together.

    Raises:
        UserError: fewer texts than the counts ask for.
    """
    places = [text_order(text, seed) for text in texts]
    ranked = sorted(set(places))
    held = counts.test + counts.val
    least = held + (counts.train or 1)
    if len(ranked) < least:
        raise UserError(
            f"{len(ranked):,} different texts are not enough for test_count={counts.test:,}, "
            f"val_count={counts.val:,} and "
            + (f"train_count={counts.train:,}" if counts.train else "any for training")
            + f": lower them to {len(ranked):,} in all, or give more texts"
        )
    end = len(ranked) if counts.train is None else least
    split: dict[bytes, TextSplit] = dict.fromkeys(ranked[: counts.test], "test")
    split |= dict.fromkeys(ranked[counts.test : held], "val")
    split |= dict.fromkeys(ranked[held:end], "train")
    return [split.get(place) for place in places]
