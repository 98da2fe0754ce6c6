"""The run: corpus → model without and with cycles → baselines → measurements → report."""

from functools import cached_property, partial
from typing import Any

from latentsmith.backbones.text_inverter import Order
from latentsmith.config.run import Run
from latentsmith.metrics.card_file import save_card
from latentsmith.recipes.base import Stage, Staged
from latentsmith.recipes.textlatent.baselines import Inverters
from latentsmith.recipes.textlatent.config import Arm, TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs
from latentsmith.recipes.textlatent.measure import Measurer
from latentsmith.recipes.textlatent.models import Models
from latentsmith.recipes.textlatent.report import write
from latentsmith.training.team import Team

MADE: dict[Arm, str] = {
    "base": "train the model on texts and latents, without cycles",
    "cycles": "train it with cycles and prior, from the same weights with the same draws",
}
DECODERS: dict[Order, str] = {
    "autoregressive": "baseline: a decoder of equal size, token after token",
    "one_shot": "baseline: a decoder of equal size, all tokens at once",
}


def stages(cfg: TextLatentRecipe) -> list[Stage]:
    """All stages, bound to one pipeline, so that what one loads the next finds in memory."""
    line = Pipeline(cfg)
    return [
        Stage("corpus", "read the texts, make their latents", line.corpus),
        *(Stage(arm, MADE[arm], partial(line.model, arm=arm)) for arm in cfg.arms),
        *(
            Stage(order, DECODERS[order], partial(line.decoder, order=order))
            for order in cfg.baselines.trained
        ),
        Stage("measure", "measure both directions, beside the baselines", line.measure),
        Stage("report", "write the report", line.report, closing="measure"),
    ]


class Pipeline(Staged):
    """The stages' work. Each method takes the run and skips or resumes what is already done."""

    def __init__(self, cfg: TextLatentRecipe):
        self.cfg = cfg

    @cached_property
    def team(self) -> Team:
        """This process among those of the run."""
        return Team.join(several_objectives=False)

    @cached_property
    def inputs(self) -> Inputs:
        """Texts and latents."""
        return Inputs(self.cfg, self.team)

    @cached_property
    def models(self) -> Models:
        """The model's arms."""
        return Models(self.cfg, self.inputs, self.team)

    def corpus(self, run: Run) -> None:
        """Make or find the corpus, say what it is."""

        def work() -> dict[str, Any]:
            data, tokenizer = self.inputs.data, self.inputs.tokenizer
            info = data.info
            told = {"name": info.name, "origin": info.origin, "licence": info.licence}
            counts = {part: len(data.rows(part)) for part in ("train", "val", "test")}
            run.note(
                "corpus", told | {"digest": data.digest, "latents": self.inputs.made_by.fingerprint}
            )
            return told | {
                "counts": counts,
                "left_out": info.selection.get("left_out", {}),
                "vocabulary": tokenizer.size,
                "unknown_share": tokenizer.unknown_share(data.tokens(tokenizer)),
                "latent": list(self.inputs.train.shape),
            }

        self._once(run, "corpus", work)

    def model(self, run: Run, arm: Arm) -> None:
        """Train one arm of the model."""
        self._once(run, arm, lambda: self.models.make(run, arm))

    def decoder(self, run: Run, order: Order) -> None:
        """Train one decoder."""
        inverters = Inverters(self.cfg, self.inputs, self.team)
        self._once(run, order, lambda: inverters.make(run, order))

    def measure(self, run: Run) -> None:
        """Measure every method from what was saved."""

        def work() -> dict[str, Any]:
            inverters = Inverters(self.cfg, self.inputs, self.team)
            measurer = Measurer(self.cfg, self.inputs, self.team, self.models, inverters)
            names = []
            for name, make in measurer.methods(run):
                card = make()
                place = run.folder("measurements") / name
                self.team.on_main(partial(save_card, card, place))
                names.append(name)
            self.team.on_main(lambda: measurer.save_examples(run))
            return {"methods": names}

        self._once(run, "measure", work)

    def report(self, run: Run) -> None:
        """Always written anew: it costs a second and follows the code."""
        self.team.on_main(lambda: run.mark_done("report", {"page": write(self.cfg, run)}))
