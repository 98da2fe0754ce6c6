"""Classes from the columns ``class_id`` and ``class_name`` of a CSV."""

from collections.abc import Sequence

from latentsmith.data.zip_csv.table import Table
from latentsmith.errors import UserError


def classes_of(table: Table, declared: Table | None = None) -> list[str] | None:
    """Class names by number: ``class_id`` says the number and ``class_name`` the name; one column
    is enough (names alone are numbered in sorted order). None without either.

    Args:
        table: of the training samples.
        declared: a CSV of all classes by number, where some have no sample.

    Raises:
        UserError: numbers with gaps, or a number with two names.
    """
    numbered = "class_id" in table.columns
    if not numbered and "class_name" not in table.columns:
        return None
    if not numbered and declared is None:
        return sorted(set(table.columns["class_name"]))
    sources = [declared] if declared is not None else []
    sources += [table] if numbered else []
    known = {k for source in sources for k in _numbers(source)}
    if max(known) >= len(known):
        missing = [k for k in range(len(known) + 1) if k not in known]
        raise UserError(
            f"{table.path}: class ids go up to {max(known)}, but there is no sample of "
            f"{', '.join(map(str, missing[:10]))}. They must be 0, 1, 2, … without gaps; where a "
            "class has no samples, name all classes in a CSV with the columns class_id and "
            "class_name (setting 'classes')"
        )
    names: dict[int, tuple[str, str]] = {}  # number → name, where it was said
    for source in sources:
        _name(names, source)
    return [names[k][0] if k in names else str(k) for k in range(len(known))]


def _name(names: dict[int, tuple[str, str]], source: Table) -> None:
    """Add the names a table gives to numbers."""
    told = source.columns.get("class_name", [])
    for k, name, line in zip(_numbers(source), told, source.lines, strict=False):
        before, where = names.setdefault(k, (name, f"{source.path.name}, line {line}"))
        if before != name:
            raise UserError(
                f"{source.path}, line {line}: class_id {k} is called {name!r}, but {before!r} in "
                f"{where}"
            )


def labels_of(table: Table, rows: Sequence[int], classes: list[str] | None) -> list[int] | None:
    """The class number of chosen rows of a table; None without classes.

    Args:
        classes: names by number, of the training samples.

    Raises:
        UserError: a class training lacks, or one it calls otherwise; no class column.
    """
    if classes is None:
        return None
    columns = table.columns
    if "class_id" in columns:
        labels = _numbers(table)
    elif "class_name" in columns:
        number = {name: k for k, name in enumerate(classes)}
        labels = [number.get(name, -1) for name in columns["class_name"]]
    else:
        raise UserError(f"{table.path} has no column class_id or class_name, but training has")
    for row in rows:
        name = columns["class_name"][row] if "class_name" in columns else None
        k = labels[row]
        if not 0 <= k < len(classes) or ("class_id" in columns and name not in (None, classes[k])):
            told = f"class {name!r}" if "class_id" not in columns else f"class_id {k} ({name})"
            raise UserError(
                f"{table.path}, line {table.lines[row]}: training has no {told}. It has "
                f"{len(classes)} classes, from 0 ({classes[0]}) to {len(classes) - 1} "
                f"({classes[-1]})"
            )
    return [labels[row] for row in rows]


def _numbers(table: Table) -> list[int]:
    """The column ``class_id``."""
    texts = table.columns["class_id"]
    for text, line in zip(texts, table.lines, strict=True):
        if not text.isdecimal():
            raise UserError(
                f"{table.path}, line {line}: class_id {text!r} should be a whole number from 0"
            )
    return [int(text) for text in texts]
