"""What every tab promises, and where tabs are found.

A tab is a module of `latentsmith.explore.tabs` with ``TAB``, an instance of a subclass of `Tab`.
The page asks it for its controls once, and for blocks each time somebody uses them: once for every
arm that is shown, so that a tab looks at one arm and the page puts arms side by side.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block
from latentsmith.explore.form import Control, Picked
from latentsmith.explore.pictures import uploaded

PACKAGE = "latentsmith.explore.tabs"


class Tab:
    """Base of all tabs.

    Attributes:
        name: its module's, and its part of the page's address.
        title: what is written on it.
        help: one or two sentences above its controls.
        place: tabs stand in the order of these numbers.
        live: it answers at once when a control is changed; others wait for their button.
        button: what is written on that.
        stacked: arms stand one over the other, for what is wide; others stand side by side.
    """

    title: ClassVar[str]
    help: ClassVar[str]
    place: ClassVar[int]
    live: ClassVar[bool] = False
    button: ClassVar[str] = "Go"
    stacked: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See the class."""
        return type(self).__module__.rpartition(".")[2]

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Whether the tab makes sense for an arm."""
        raise TypeError(f"{type(self).__name__} has no fits()")

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Controls for the arms that it fits, at least one."""
        raise TypeError(f"{type(self).__name__} has no controls()")

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """What one arm shows for the controls' values. Raises UserError for what it cannot."""
        raise TypeError(f"{type(self).__name__} has no blocks()")


@cache
def tabs() -> dict[str, Tab]:
    """All tabs by name, in their order."""
    package = importlib.import_module(PACKAGE)
    modules = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_"]
    found: list[Tab] = [importlib.import_module(f"{PACKAGE}.{name}").TAB for name in modules]
    return {tab.name: tab for tab in sorted(found, key=lambda tab: (tab.place, tab.name))}


def tab_of(name: str) -> Tab:
    """Raises UserError for none of that name."""
    if name not in tabs():
        raise UserError(f"no tab {name!r} on this page: load it again")
    return tabs()[name]


def image_of(bench: Bench, arm: Arm, picked: Picked) -> Tensor:
    """A picked sample or an uploaded image as the arm sees it, [C, R, R] in [0, 1].

    Raises:
        UserError: an upload that cannot be read.
    """
    if picked.upload is not None:
        return uploaded(picked.upload, bench.transform(arm))
    assert picked.number is not None
    return bench.seen(arm)[picked.number]


def has_images(bench: Bench, arm: Arm) -> bool:
    """Whether the arm is an autoencoder and the page has images for it."""
    return arm.kind == "images" and len(bench.samples) > 2


def has_samples(bench: Bench, arm: Arm) -> bool:
    """Whether the arm has latents of the page's samples."""
    return arm.kind != "none" and len(bench.samples) > 2


def references_of(bench: Bench, arms: list[Arm]) -> list[str]:
    """Names of the reference spaces of any of the arms, those that most of them have first."""
    names = [name for arm in arms for name in bench.references(arm)]
    return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))


def own_reference(bench: Bench, arm: Arm, wanted: str) -> str:
    """``wanted``. Raises UserError where the arm's run has no such reference space."""
    known = bench.references(arm)
    if wanted not in known:
        raise UserError(f"{arm.run_name} has no reference space {wanted!r}: {', '.join(known)}")
    return wanted
