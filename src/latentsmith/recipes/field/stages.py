"""The run: autoencoders → flow of codes → flows of values → measurements → report."""

from functools import cached_property, partial
from typing import Any

from latentsmith.config.run import Run
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.base import Stage, Staged
from latentsmith.recipes.field.autoencoders import MAIN, Autoencoders, stage_of
from latentsmith.recipes.field.config import FieldConfig, Flow
from latentsmith.recipes.field.flows import Flows
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.recipes.field.latent import LatentFlow
from latentsmith.recipes.field.measure import Measurer
from latentsmith.recipes.field.report import write
from latentsmith.training.team import Team

MADE: dict[Flow, str] = {
    "values": "phase 2 on values: a flow told the code",
    "mamba_flow": "baseline: a flow told the sparse input, no latent",
    "minimal_bottleneck": "baseline: the same, squeezed in the middle",
}


def stages(cfg: FieldConfig) -> list[Stage]:
    """All stages, bound to one pipeline, so that what one loads the next finds in memory."""
    line = Pipeline(cfg)
    return [
        *(
            Stage(stage_of(arm), f"phase 1 with {arm}", partial(line.autoencoder, arm=arm))
            for arm in (MAIN, *cfg.compare)
        ),
        Stage("latent", "phase 2 on the code: cache it, train a flow", line.latent),
        *(Stage(f, MADE[f], partial(line.flow, flow=f)) for f in cfg.flows.make),
        Stage("measure", "measure everything on the same points", line.measure),
        Stage("report", "write the report", line.report, closing="measure"),
    ]


class Pipeline(Staged):
    """The stages' work. Each method takes the run and skips or resumes what is already done."""

    def __init__(self, cfg: FieldConfig):
        self.cfg = cfg

    @cached_property
    def team(self) -> Team:
        """This process among those of the run."""
        return Team.join(several_objectives=False)

    @cached_property
    def inputs(self) -> Inputs:
        """Images and caches."""
        return Inputs(self.cfg, self.team)

    @cached_property
    def autoencoders(self) -> Autoencoders:
        """Of phase 1."""
        return Autoencoders(self.cfg, self.inputs, self.team)

    def autoencoder(self, run: Run, arm: str) -> None:
        """Train the autoencoder with one decoder."""
        self._once(run, stage_of(arm), lambda: self.autoencoders.make(run, arm))

    def latent(self, run: Run) -> None:
        """Train the flow of codes."""
        flow = LatentFlow(self.cfg, self.inputs, self.team, self.autoencoders)
        self._once(run, "latent", lambda: flow.make(run))

    def flow(self, run: Run, flow: Flow) -> None:
        """Train a flow of values."""
        flows = Flows(self.cfg, self.inputs, self.team, self.autoencoders)
        self._once(run, flow, lambda: flows.make(run, flow))

    def measure(self, run: Run) -> None:
        """Measure every method from what was saved."""

        def work() -> dict[str, Any]:
            measurer = Measurer(self.cfg, self.inputs, self.team, self.autoencoders)
            names = []
            for name, make in measurer.methods(run):
                card = make()
                place = run.folder("measurements") / name
                self.team.on_main(partial(save_card, card, place))
                names.append(name)
            return {"methods": names}

        self._once(run, "measure", work)

    def report(self, run: Run) -> None:
        """Always written anew: it costs a second and follows the code."""
        self.team.on_main(lambda: run.mark_done("report", {"page": write(self.cfg, run)}))
