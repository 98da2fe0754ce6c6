"""A classifier that reads every named factor off a picture of captioned shapes.

`tables` says in numbers what is shown or asked, `matching` finds the asked objects among those
shown, `network` and `training` make the classifier, `judge` keeps it and reads pictures with it.
"""

from latentsmith.metrics.shapes_judge.config import JudgeConfig
from latentsmith.metrics.shapes_judge.judge import Judge
from latentsmith.metrics.shapes_judge.tables import asked_tables, cell_tables, scene_tables

__all__ = ["Judge", "JudgeConfig", "asked_tables", "cell_tables", "scene_tables"]
