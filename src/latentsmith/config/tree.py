"""Composing the tree of settings: the only file that drives Hydra and OmegaConf."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from latentsmith.config import errors
from latentsmith.config.nodes import SHARED, Choice, Nodes
from latentsmith.errors import UserError

PRIMARY = "latentsmith"
"""Name of the generated config Hydra starts from."""


@dataclass(frozen=True)
class Tree:
    """What Hydra composed: the values, and every group's option."""

    config: DictConfig
    choices: dict[str, str | None]


class Repo(dict[str, Any]):
    """What Hydra's store holds. Hydra copies it before each composing, in depth, and then changes
    nothing of it."""

    def __deepcopy__(self, memo: Any) -> "Repo":
        return self


_TREES: dict[tuple[int, str, tuple[str, ...]], tuple[Nodes, Tree]] = {}
"""Composed trees: one costs a tenth of a second, and sweeps, tests and help ask for the same ones.
The nodes are kept beside, so that their id stays theirs."""

_STORED: dict[int, tuple[Nodes, dict[str, Any]]] = {}
"""Nodes as Hydra's store keeps them."""


def compose_tree(nodes: Nodes, lines: Iterable[str]) -> Tree:
    """The recipe's tree with these group overrides. It is shared: copy before changing it."""
    return _compose(nodes, PRIMARY, nodes.primary(), tuple(lines))


def option_alone(nodes: Nodes, choice: Choice) -> dict[str, Any]:
    """What an option says of itself, with nothing merged over it."""
    node = nodes.options.get(choice.group, {}).get(choice.option or "", {"defaults": []})
    if "defaults" not in node:  # it is nothing but its values
        return copy.deepcopy(node)
    name = f"{choice.group}-{choice.option}"
    config = _compose(nodes, name, {"defaults": [choice.entry(), "_self_"]}, ()).config
    return OmegaConf.to_container(OmegaConf.select(config, choice.path))  # type: ignore[return-value]


def _compose(nodes: Nodes, name: str, primary: dict[str, Any], lines: tuple[str, ...]) -> Tree:
    key = (id(nodes), f"{name} {primary}", lines)
    if key not in _TREES:
        with translated(), _hydra(nodes, name, primary):
            config = hydra_compose(name, list(lines), return_hydra_config=True)
        known = config.hydra.runtime.choices
        choices = {str(k): v for k, v in known.items() if not str(k).startswith("hydra/")}
        with open_dict(config):
            del config["hydra"]
        _TREES[key] = nodes, Tree(config, choices)
    return _TREES[key][1]


@contextlib.contextmanager
def _hydra(nodes: Nodes, name: str, primary: dict[str, Any]) -> Iterator[None]:
    """Hydra looking at this recipe's nodes only; its process-wide store is put back after."""
    store = ConfigStore.instance()
    saved = store.repo
    try:
        if id(nodes) not in _STORED:
            _STORED[id(nodes)] = nodes, _stored(store, nodes)
        store.repo = Repo({**saved, **_STORED[id(nodes)][1]})
        # as an override it would have to be parsed, which takes a sixth of all
        shared = {"searchpath": [f"file://{SHARED.resolve()}"]}
        store.store(name=name, node={**primary, "hydra": shared})
        with initialize_config_dir(str(nodes.folders()[0].resolve()), version_base="1.3"):
            yield
    finally:
        store.repo = saved


def _stored(store: ConfigStore, nodes: Nodes) -> dict[str, Any]:
    """Its options put into a store that was empty, and of Hydra's own settings the least: those of
    launchers, help and logs would be read from files and merged each time."""
    store.repo = {}
    store.store(group="hydra", name="config", node=HydraConf(defaults=[]))
    store.store(name="base", node=nodes.base)
    for group, options in nodes.options.items():
        for option, node in options.items():
            store.store(group=group, name=option, node=node)
    return store.repo


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Hydra's and OmegaConf's complaints as UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(errors.from_hydra(str(error))) from error


def changeable(tree: Tree) -> DictConfig:
    """A copy of the tree's values that takes new keys."""
    config = copy.deepcopy(tree.config)
    OmegaConf.set_struct(config, False)
    return config


def get(config: DictConfig, path: str) -> Any:
    """The node at a dotted path; the root for ``""``; None where there is none."""
    return OmegaConf.select(config, path) if path else config


def put(config: DictConfig, path: str, value: Any) -> None:
    """Set a value as Hydra would: dicts are merged, new keys are let in."""
    with translated():
        OmegaConf.update(config, path, value, merge=True, force_add=True)


def remove(config: DictConfig, path: str) -> None:
    """Take a key away; fine when it is not there."""
    above, _, name = path.rpartition(".")
    parent = get(config, above)
    if isinstance(parent, DictConfig):
        parent.pop(name, None)


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolved nested dicts; what is still missing (``???``) is left out for pydantic to list."""
    with translated():
        values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return _without_missing(values)


def _without_missing(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_missing(v) for k, v in values.items() if v != "???"}
    return values
