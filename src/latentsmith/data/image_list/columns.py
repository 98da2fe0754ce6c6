"""Which column of a list holds what."""

from collections.abc import Mapping

from latentsmith.data.zip_csv.table import Table
from latentsmith.errors import UserError, nearest

NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        "image",
        "source",
        "source_image",
        "source_img",
        "input_image",
        "original_image",
        "file_name",
        "file",
    ),
    "target": ("target", "target_image", "target_img", "edited_image"),
    "instruction": ("instruction", "edit_prompt"),
    "caption": ("caption", "text", "original_prompt", "input_prompt"),
    "target_caption": ("target_caption", "edited_prompt"),
}
"""Names that are tried for each key of a sample, in this order: ours, then InstructPix2Pix's,
MagicBrush's and those of the ``datasets`` library's image folders."""

EDIT = ("target", "instruction", "target_caption")
"""Keys that only edits have."""

FILES = ("image", "target")
"""Keys whose column names files."""

SHOWN = 10
"""Lines named in a message."""


def choose_columns(table: Table, named: Mapping[str, str | None], edits: bool) -> dict[str, str]:
    """Key of a sample → column of the list.

    Args:
        named: the user's choices; None: the first of `NAMES` that the list has.
        edits: look for edits, too.

    Raises:
        UserError: a named column or one for the images is missing, or half of what an edit needs.
    """
    keys = [key for key in NAMES if edits or key not in EDIT]
    found = {key: _find(table, key, named.get(key)) for key in keys}
    columns = {key: column for key, column in found.items() if column is not None}
    if "image" not in columns:
        raise UserError(
            f"{table.path} has no column of images. Tried: {', '.join(NAMES['image'])}. "
            f"It has: {', '.join(table.columns)}. Name it by image=COLUMN"
        )
    have = [key for key in ("target", "instruction") if key in columns]
    if len(have) == 1:
        (has,), lacks = have, "instruction" if have == ["target"] else "target"
        raise UserError(
            f"{table.path} has {columns[has]!r} for {has} but no column for {lacks} (tried: "
            f"{', '.join(NAMES[lacks])}); an edit needs both. Name it by {lacks}=COLUMN, or set "
            "edits=false for images and captions only"
        )
    if not have:
        columns.pop("target_caption", None)
    return columns


def _find(table: Table, key: str, named: str | None) -> str | None:
    if named is None:
        return next((name for name in NAMES[key] if name in table.columns), None)
    if named not in table.columns:
        raise UserError(
            f"{table.path} has no column {named!r} (setting {key!r}). "
            f"{nearest(named, table.columns)}"
        )
    return named


def take_columns(table: Table, columns: Mapping[str, str]) -> Table:
    """The table by keys of samples, and its column ``split``.

    Raises:
        UserError: a row without image, or of edits one without target or instruction.
    """
    taken = {key: table.columns[column] for key, column in columns.items()}
    for key in ("image", "target", "instruction"):
        empty = [
            line for line, text in zip(table.lines, taken.get(key, ()), strict=False) if not text
        ]
        if empty:
            remedy = (
                "leave such rows out"
                if key == "image"
                else "an edit list has one in every row; put images without edits into a list of "
                "their own, or set edits=false for images and captions only"
            )
            raise UserError(
                f"{table.path}: {len(empty)} of {len(table)} rows have no {key} "
                f"({columns[key]!r}), in line {_numbers(empty)}: {remedy}"
            )
    if "split" in table.columns:
        taken["split"] = table.columns["split"]
    return Table(table.path, taken, table.lines)


def _numbers(lines: list[int]) -> str:
    more = len(lines) - SHOWN
    shown = ", ".join(map(str, lines[:SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown
