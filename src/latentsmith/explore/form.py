"""Controls of a tab, and the checked values a request gives them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from latentsmith.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Control:
    """Base of all controls.

    Attributes:
        name: key of its value.
        label: what the page writes beside it.
        help: a sentence under it.
    """

    kind: ClassVar[str]
    name: str
    label: str
    help: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the page builds it from."""
        return {"kind": self.kind, **asdict(self)}

    def check(self, value: Any) -> Any:
        """The value as a tab takes it. Raises UserError for one that it cannot have."""
        raise TypeError(f"{type(self).__name__} has no check()")

    def wrong(self, what: str) -> UserError:
        """A refusal that names the control."""
        return UserError(f"{self.label}: {what}")


@dataclass(frozen=True, kw_only=True)
class Number(Control):
    """A number between two others."""

    kind: ClassVar[str] = "number"
    least: float
    most: float
    step: float = 1
    value: float

    def check(self, value: Any) -> float | int:
        """A whole number where the step is one."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("a number is needed")
        if not self.least <= value <= self.most:
            raise self.wrong(f"{value:g} is not between {self.least:g} and {self.most:g}")
        return round(value) if float(self.step).is_integer() else float(value)


@dataclass(frozen=True, kw_only=True)
class Text(Control):
    """Words, of one line or several."""

    kind: ClassVar[str] = "text"
    value: str = ""
    lines: int = 1
    most: int = 4000
    """Letters at most."""

    def check(self, value: Any) -> str:
        """Without blanks at its ends."""
        if not isinstance(value, str) or len(value) > self.most:
            raise self.wrong(f"a text of at most {self.most} letters is needed")
        return value.strip()


@dataclass(frozen=True, kw_only=True)
class Choice(Control):
    """One of several."""

    kind: ClassVar[str] = "choice"
    options: Sequence[str]
    value: str

    def check(self, value: Any) -> str:
        """One of the options."""
        if value not in self.options:
            raise self.wrong(f"{value!r} is none of {', '.join(self.options)}")
        return value


@dataclass(frozen=True)
class Picked:
    """One sample of the page (its number), or an image from the user's disk (a data URL)."""

    number: int | None = None
    upload: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample(Control):
    """A sample: picked on the page, or uploaded where it is an image."""

    kind: ClassVar[str] = "sample"
    count: int
    """How many samples the page has."""
    uploads: bool = True
    value: int | None = 0

    def check(self, value: Any) -> Picked:
        """`Picked`."""
        given = value if isinstance(value, dict) else {}
        number, upload = given.get("number"), given.get("upload")
        if self.uploads and isinstance(upload, str):
            return Picked(upload=upload)
        if isinstance(number, int) and 0 <= number < self.count:
            return Picked(number=number)
        raise self.wrong("pick one" + (", or upload an image" if self.uploads else ""))


@dataclass(frozen=True, kw_only=True)
class Mask(Control):
    """Painted over the image of another control."""

    kind: ClassVar[str] = "mask"
    over: str
    """Name of that control."""

    def check(self, value: Any) -> str:
        """A data URL of a picture, white where painted."""
        if not isinstance(value, str) or not value.startswith("data:"):
            raise self.wrong("paint over what is to be made anew")
        return value


def checked(controls: Sequence[Control], values: Any) -> dict[str, Any]:
    """Values of all controls by name.

    Raises:
        UserError: for the first that does not fit, or values that are no object of the controls'.
    """
    given = values if isinstance(values, dict) else {}
    unknown = given.keys() - {control.name for control in controls}
    if unknown:
        raise UserError(f"no control {', '.join(map(repr, sorted(unknown)))}: load the page again")
    return {control.name: control.check(given.get(control.name)) for control in controls}
