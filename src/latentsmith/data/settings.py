"""``fashion_mnist pad=2 train_count=1000`` → a checked dataset config, outside any recipe."""

from collections.abc import Sequence
from typing import Any

from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.errors import UserError


def dataset_config(name: str, settings: Sequence[str]) -> DatasetConfig:
    """The config of a registered dataset.

    Args:
        name: registry name.
        settings: ``key=value`` words; values are read as YAML.

    Raises:
        UserError: unknown name, or every setting that is wrong and what would be right.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from latentsmith.config.errors import explain, readable_words

    config: Any = DATASETS[name].config
    values: dict[str, Any] = {}
    words, problems = readable_words(list(settings))
    for word in words:
        key, _, value = word.partition("=")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            problems.append(f"{word}: cannot read this value ({str(error).splitlines()[0]})")
    checked: DatasetConfig | None = None
    try:
        checked = TypeAdapter(config).validate_python(values)
    except ValidationError as error:
        problems += explain(error, config, values, problems)
    if checked is None or problems:
        raise UserError("\n  ".join([f"settings of dataset {name}:", *problems]))
    return checked
