"""Phase 2 on values, and the baselines that have no latent."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.field.flow import FieldFlow, FieldFlowConfig, load_flow
from latentsmith.autoencoders.field.flow_task import FieldFlowTask
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.fields.batches import of_images
from latentsmith.recipes.field.autoencoders import Autoencoders
from latentsmith.recipes.field.config import FieldConfig, Flow
from latentsmith.recipes.field.inputs import Inputs
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import state_digest


class Flows:
    """Trains and loads the flows of values of one run."""

    def __init__(self, cfg: FieldConfig, inputs: Inputs, team: Team, autoencoders: Autoencoders):
        self.cfg, self.inputs, self.team, self.autoencoders = cfg, inputs, team, autoencoders

    def load(self, run: Run, flow: Flow) -> FieldFlow:
        """A trained flow, frozen, on the team's device."""
        folder = self.team.on_main(lambda: Path(run.summary(flow)["flow"]))
        return load_flow(folder).to(self.team.device)

    def make(self, run: Run, flow: Flow) -> dict[str, Any]:
        """Train and save a flow; the stage's summary."""
        config: FieldFlowConfig = getattr(self.cfg.flows, flow)
        config = replace(config, init_seed=config.init_seed + self.cfg.seed)
        coded = config.told == "code"
        autoencoder = self.autoencoders.load(run) if coded else None
        network = config.build(self.cfg.field)
        task = FieldFlowTask(network, of_images(self.cfg.sampling), autoencoder=autoencoder)
        train = self.cfg.flows.train
        train = replace(train, seed=train.seed + self.cfg.seed)
        identity = {
            "start": state_digest(network.state_dict()),
            "flow": to_dict(config),
            "told": None if autoencoder is None else autoencoder.encoder_digest(),
            "sampling": to_dict(self.cfg.sampling),
            "data": self.inputs.train.digest,
        }
        place = run.place(flow, identity | {"train": asdict(train)})
        batches = self.inputs.images(train.batch_size, train.seed)
        few = self.inputs.few(train.batch_size)
        result = fit(task, batches, train, place, val_batch=few, identity=identity)
        folder = place / "flow"
        with result.averaged():
            self.team.on_main(lambda: network.save_pretrained(folder))
        counts = {"decoder": sum(p.numel() for p in network.parameters())}
        return result.summary(place, flow=folder, parameters=counts)
