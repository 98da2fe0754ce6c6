"""Decoders of the model's size that only write: token after token, or all at once."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from latentsmith.backbones.text_inverter import Order, TextInverter
from latentsmith.backbones.text_inverter_saved import load_inverter
from latentsmith.backbones.text_inverter_task import TextInverterTask
from latentsmith.config.run import Run
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs
from latentsmith.training.loop import fit
from latentsmith.training.team import Team
from latentsmith.utils.digest import state_digest

INVERTER = "inverter"
"""Folder of the saved decoder below its training's."""


class Inverters:
    """Trains and loads the decoders of one run."""

    def __init__(self, cfg: TextLatentRecipe, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team

    def load(self, run: Run, order: Order) -> TextInverter:
        """A trained decoder, frozen, on the team's device."""
        folder = self.team.on_main(lambda: Path(run.summary(order)["inverter"]))
        return load_inverter(folder).to(self.team.device)

    def make(self, run: Run, order: Order) -> dict[str, Any]:
        """Train and save a decoder; the stage's summary."""
        inputs, baselines = self.inputs, self.cfg.baselines
        shape = inputs.tokenizer.size, inputs.tokenizer.length, inputs.pairs.shape
        seed = baselines.inverter.init_seed + self.cfg.seed
        config = replace(baselines.inverter, order=order, init_seed=seed)
        with torch.device("meta"):  # linear paths are large tables, and no depth
            model = replace(self.cfg.network, linear=False).build(*shape)
        size = sum(p.numel() for p in model.parameters())
        network = config.matched(size, *shape).build(*shape)
        train = baselines.train or self.cfg.train
        train = replace(train, seed=train.seed + self.cfg.seed)
        batches = inputs.batches(inputs.pairs, train.batch_size, train.seed)
        identity = {
            "start": state_digest(network.state_dict()),
            "order": order,
            "data": batches.fingerprint,
        }
        place = run.place(order, identity | {"train": asdict(train)})
        task, few = TextInverterTask(network), inputs.few(train.batch_size)
        result = fit(task, batches, train, place, val_batch=few, identity=identity)
        with result.averaged():
            self.team.on_main(lambda: task.save_pretrained(place / INVERTER))
        counts = {"decoder": sum(p.numel() for p in network.parameters())}
        return result.summary(place, inverter=place / INVERTER, parameters=counts)
