"""How two JSON values differ, for people."""

from typing import Any


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Dotted paths at which two JSON values differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found: list[str] = []
        for key in sorted(ours.keys() | theirs.keys()):
            found += differences(ours.get(key), theirs.get(key), f"{prefix}.{key}".lstrip("."))
        return found
    return [] if ours == theirs else [f"{prefix}: {theirs!r} there, {ours!r} wanted"]
