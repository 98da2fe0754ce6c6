"""What stands for a registry in an export: names of the classes that it carries."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Registry(dict):
    """Name → what has the class as ``config``; as `latentsmith.registry.Registry` is read."""

    def __init__(self, *about: str):
        super().__init__()

    def register(self, name: str, **about: Any) -> Callable[[type], type]:
        """Class decorator."""

        def add(config: type) -> type:
            self[name] = SimpleNamespace(name=name, config=config)
            return config

        return add
