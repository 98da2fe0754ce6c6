"""What a tab gives the page to show: plain data, which the page draws and never runs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from latentsmith.explore.pictures import data_url

Block = dict[str, Any]


def pictures(
    images: Tensor | Sequence[Tensor],
    captions: Sequence[str] = (),
    *,
    title: str = "",
    size: int = 96,
) -> Block:
    """Images [C, H, W] in [0, 1], each under its caption, drawn ``size`` pixels wide."""
    words = [*captions, *[""] * (len(images) - len(captions))]
    items = [
        {"src": data_url(image), "caption": word} for image, word in zip(images, words, strict=True)
    ]
    return {"kind": "pictures", "title": title, "size": size, "items": items}


def strip(images: Tensor, speeds: Sequence[float], *, axis: str) -> Block:
    """A decoded path [T, C, H, W] over the curve of its speed between the images [T − 1]."""
    return {
        "kind": "strip",
        "images": [data_url(image) for image in images],
        "speeds": list(speeds),
        "axis": axis,
    }


def picks(
    rows: Sequence[int], notes: Sequence[str] = (), marked: Sequence[int] = (), *, title: str = ""
) -> Block:
    """Samples of the page by number, each with a note; those in ``marked`` stand out."""
    words = [*notes, *[""] * (len(rows) - len(notes))]
    items = [
        {"number": row, "note": word, "marked": row in marked}
        for row, word in zip(rows, words, strict=True)
    ]
    return {"kind": "picks", "title": title, "items": items}


def scatter(
    points: Tensor,
    values: Sequence[float],
    *,
    colour: Literal["classes", "scale"],
    names: Sequence[str] = (),
    axis: str = "",
) -> Block:
    """A map: points [N, 2] of all samples, coloured by the class or by the number of each.

    Args:
        values: class number or value of each; [] where there is nothing to tell.
        names: of the classes.
        axis: what the numbers are.
    """
    return {
        "kind": "scatter",
        "points": [[round(x, 5), round(y, 5)] for x, y in points.tolist()],
        "values": list(values),
        "colour": colour,
        "names": list(names),
        "axis": axis,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> Block:
    """Rows of text under a head."""
    return {"kind": "table", "title": title, "head": list(head), "rows": [list(r) for r in rows]}


def facts(values: Mapping[str, str]) -> Block:
    """A line of numbers with their names."""
    return {"kind": "facts", "items": [[name, value] for name, value in values.items()]}


def note(text: str) -> Block:
    """A sentence."""
    return {"kind": "note", "text": text}


def link(text: str, address: str) -> Block:
    """A link within the application."""
    return {"kind": "link", "text": text, "address": address}
