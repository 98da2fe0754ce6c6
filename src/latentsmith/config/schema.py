"""The decorator every config dataclass wears."""

import functools
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T", bound=type)


@dataclass_transform(kw_only_default=True)
def schema(cls: T) -> T:
    """Make ``cls`` a keyword-only dataclass that pydantic checks strictly: unknown keys, NaN and
    infinity are refused.

    Constructing one in Python is an ordinary dataclass call; `latentsmith.config.compose` (and
    pydantic's ``TypeAdapter``) is what checks types, ranges and cross-field rules. Cross-field
    rules go into ``__post_init__`` and raise ``ValueError`` with a sentence that names the fix.
    Help for a field is the string under it.
    """
    # NaN and infinity pass every range check that compares, and JSON has neither
    cls.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclass(kw_only=True)(cls)


@functools.cache
def adapter(config: type) -> TypeAdapter[Any]:
    """What checks a config class and writes its values out. Made once: for a whole recipe that
    takes longer than composing its settings. Components registered later are not known to it."""
    return TypeAdapter(config)
