"""What the verbs on texts and latents share: a trained translator, files of texts and latents."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsmith.cli._models import is_run, model_of_run
from latentsmith.cli._pipeline import prepare, seed

if TYPE_CHECKING:
    from torch import Tensor

    from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
    from latentsmith.sampling.text_latent.translator import Translator


def add_text_verb(subparsers: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all share."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=text, epilog=examples
    )
    add_source(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="written, JSON lines (default: printed)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of everything drawn (0)")
    return parser


def add_source(parser: argparse.ArgumentParser) -> None:
    """The run and which of its models."""
    parser.add_argument("source", metavar="SOURCE", help="textlatent run, or folder of its model")
    parser.add_argument("--model", metavar="STAGE", help="of a run: which stage's model (the last)")


def add_texts(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where texts are given."""
    parser.add_argument(
        "--texts", type=Path, required=required, metavar="FILE",
        help="a text a line, JSON lines or a CSV/TSV table with a column of texts",
    )  # fmt: skip
    parser.add_argument(
        "--field", default="text", metavar="NAME", help="of JSON lines and tables: which (text)"
    )


def add_latents(parser: argparse.ArgumentParser, *, required: bool, text: str) -> None:
    """Where latents are given."""
    parser.add_argument("--latents", type=Path, required=required, metavar="FILE", help=text)


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """How texts are written."""
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="looks at each text (8)")
    parser.add_argument(
        "--temperature", type=float, metavar="T",
        help="of tokens; 0: the likeliest (default: 0, 0.7 with several candidates)",
    )  # fmt: skip
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus (1: all)")
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="S",
        help="classifier-free guidance (1: none)",
    )
    parser.add_argument(
        "--sampler", choices=["confidence", "ancestral"], default="confidence",
        help="surest tokens first, or the diffusion's reverse steps",
    )  # fmt: skip
    parser.add_argument(
        "--unknown", action="store_true", help="let [UNK] be written, for rare words"
    )  # fmt: skip


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """How long candidates are searched among."""
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="R",
        help="of a search from the candidates on: parts of them written anew, the nearest kept (0)",
    )  # fmt: skip


def decoding(args: argparse.Namespace, usual: float = 0.0) -> "TextSamplerConfig":
    """The sampler that is meant; ``usual``: temperature where none is given.

    Raises:
        UserError: naming the option that is out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    from latentsmith.errors import UserError
    from latentsmith.sampling.text_latent.tokens import TextSamplerConfig

    temperature = usual if args.temperature is None else args.temperature
    values = {
        "kind": args.sampler, "steps": args.steps, "temperature": temperature,
        "top_p": args.top_p, "guidance": args.guidance, "unknown": args.unknown,
    }  # fmt: skip
    try:
        return TypeAdapter(TextSamplerConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][-1]).replace("_", "-")
        raise UserError(
            f"--{option} {first['input']}: {first['msg'].removeprefix('Input ')}"
        ) from error


def translator_of(source: str, stage: str | None) -> "Translator":
    """The trained model that is meant, on the CPU.

    Raises:
        UserError: there is none, or it is of another family.
    """
    from latentsmith.errors import UserError
    from latentsmith.sampling.text_latent.translator import Translator

    folder = source
    if is_run(source, stage):
        folder, _, _ = model_of_run(Path(source), stage, ())
    if not is_translator(folder):
        raise UserError(
            f"{source} holds no model of texts and latents: give a run of latentsmith run "
            "textlatent, or the folder model of its training"
        )
    prepare()
    return Translator.load(folder)


def is_translator(folder: Path | str) -> bool:
    """Whether a folder holds a model of texts and latents."""
    return (Path(folder) / "text_latent.json").is_file()


def texts_of(file: Path, field: str) -> list[str]:
    """The texts of a file, as they stand.

    Raises:
        UserError: it cannot be read, has no such field, or holds no text.
    """
    from latentsmith.data.text.file import FileConfig
    from latentsmith.errors import UserError

    path = file.expanduser()
    try:
        texts = list(FileConfig(file=path, field=field).lines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read texts from {file}: {error}") from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError(f"{file} holds no texts: write one a line")
    return texts


def latents_of(file: Path) -> "Tensor":
    """Latents float32 [N, …] of a ``.npy``.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    import numpy as np
    import torch

    from latentsmith.errors import UserError
    from latentsmith.utils.arrays import read_array

    values = read_array(file)
    if values.dtype.kind != "f":
        raise UserError(f"{file} holds no latents: an array of floats is needed, saved as .npy")
    if not np.isfinite(values).all():
        raise UserError(f"{file} holds NaN or infinity: leave such latents out")
    return torch.from_numpy(values.astype(np.float32))


def save_latents(latents: "Tensor", out: Path) -> None:
    """Raw latents [N, K0, D] as ``.npy`` of float32: [N, D] where K0 is 1."""
    import numpy as np

    from latentsmith.utils.files import atomic_path

    values = latents[:, 0] if latents.shape[1] == 1 else latents
    with atomic_path(out) as tmp, tmp.open("wb") as file:
        np.save(file, values.numpy())
    print(f"latents {list(values.shape)} in {out}")


def tell(rows: Sequence[dict[str, Any]], out: Path | None) -> None:
    """Rows as JSON lines: into the file, or printed."""
    from latentsmith.utils.files import atomic_path

    lines: Iterable[str] = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        sys.stdout.writelines(lines)
        return
    with atomic_path(out) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    print(f"{len(rows)} rows in {out}")


def pairs_from_noise(
    source: str, stage: str | None, overrides: Sequence[str], out: Path | None
) -> int:
    """The verb ``sample`` of a model of texts and latents: texts, and beside a file their latents.

    Raises:
        UserError: settings that do not exist, or out of range.
    """
    from latentsmith.errors import UserError, nearest
    from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
    from latentsmith.sampling.text_latent.writing import sample

    known: dict[str, Any] = {
        "count": 16, "seed": 0, "way": "sequential", "steps": 16, "temperature": 1.0,
    }  # fmt: skip
    for word in overrides:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise UserError(f"{word}: no such setting. {nearest(name, known)}")
        try:
            known[name] = type(known[name])(value)
        except ValueError as error:
            raise UserError(f"{word}: a number is needed") from error
    ways = ("sequential", "text_first", "joint")
    if known["way"] not in ways:
        raise UserError(f"way={known['way']}: choose of {', '.join(ways)}")
    if known["steps"] < 1 or known["temperature"] <= 0:
        raise UserError("steps must be at least 1, and temperature above 0")
    config = TextSamplerConfig(
        kind="ancestral", steps=known["steps"], temperature=known["temperature"], unknown=False
    )
    translator = translator_of(source, stage)
    drawn = sample(translator, known["count"], config, way=known["way"], seed=known["seed"])
    tell([{"text": text} for text in drawn.texts], out)
    if out is not None:
        save_latents(drawn.latents, out.with_suffix(".npy"))
    return 0
