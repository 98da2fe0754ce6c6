"""Settings: dataclasses are the truth, Hydra composes, pydantic checks.

Import `compose` from `latentsmith.config.compose`, `Run` from `latentsmith.config.run`, `to_yaml`,
`from_yaml` and `diff` from `latentsmith.config.saved`. Only `schema` is here: every config class
imports it, and should not pull Hydra in with it.
"""

from latentsmith.config.schema import schema

__all__ = ["schema"]
