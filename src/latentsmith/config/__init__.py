"""Settings: dataclasses are the truth, Hydra composes, pydantic checks."""

from latentsmith.config.schema import schema

__all__ = ["schema"]
