"""Texts on the command line: options, files of them, and how they become settings."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """``--prompt`` and ``--prompts``."""
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what images are to show, of generators that read texts; several: give it again",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line (UTF-8)")


def prompt_words(given: Sequence[str] | None, file: Path | None) -> list[str]:
    """The texts, and those of the file after them, as a setting; none: no setting.

    Raises:
        UserError: see `lines_of`.
    """
    texts = [*(given or []), *([] if file is None else lines_of(file))]
    return [f"prompts=[{','.join(map(quoted, texts))}]"] if texts else []


def lines_of(file: Path) -> list[str]:
    """The lines of a file that say something.

    Raises:
        UserError: no such file, not UTF-8, or nothing in it.
    """
    from latentsmith.errors import UserError

    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read texts from {file}: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{file} is empty: write one text a line")
    return texts


def quoted(text: str) -> str:
    """A text as a value of a setting, whatever signs are in it: what Hydra reads back as it is.
    Paths are mostly left without quotes, for they become names of folders."""
    if re.fullmatch(r"[A-Za-z/][\w-]*([./][\w-]*)+", text, re.ASCII):
        return text
    # Hydra's rule: a backslash is one only before a quote, and at the end before the closing one
    inner = re.sub(r'(\\*)(")', r"\1\1\\\2", text)
    inner = re.sub(r"(\\+)$", r"\1\1", inner)
    return '"' + inner.replace("${", r"\${") + '"'  # no OmegaConf interpolation
