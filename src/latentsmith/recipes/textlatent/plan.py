"""What a run would cost: the same networks as the stages', without texts, encoder or weights.

Where the corpus decides (vocabulary), the most it may be is taken. Masks, and when a cycle is due,
are drawn for each step: memory is that of the step with all cycles on and every token hidden, FLOPs
and time those of the mean step.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import TextLatentNet
from latentsmith.backbones.text_inverter import Order, TextInverter
from latentsmith.planning.data import training_rows
from latentsmith.planning.published import text_encoder, text_shape
from latentsmith.planning.stage import Pass, RecipePlan, Store, Training
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.stores.base import FieldSpec
from latentsmith.training.task import Batch, Objective, StepContext, Task


def plan(cfg: TextLatentRecipe) -> RecipePlan:
    """Stages that train, the corpus with its latents, and what it is made by. Raises UserError for
    settings that do not fit and encoders that are nowhere to be had."""
    parts = _Parts(cfg)
    rows = None if cfg.imported is not None else training_rows(cfg.data)
    latents = {"embedding": FieldSpec(parts.shape, "float16")}
    return RecipePlan(
        trainings=parts.trainings(),
        passes=parts.passes(rows),
        stores=[Store("latents of texts", latents, rows, key_bytes=32)],
        facts={
            "texts": cfg.data.kind if cfg.imported is None else "imported",
            "tokens": f"{cfg.tokens.kind}, {cfg.tokens.length} a text, at most "
            f"{parts.vocabulary:,} ids",
            "latents": f"{cfg.text_encoder.kind}, {'x'.join(map(str, parts.shape))}",
            "network": f"{cfg.network.size}, share={cfg.network.share}",
        },
    )


@dataclass(frozen=True)
class Looks:
    """Of one loss at a sample: ``graph`` through which a gradient is taken (twice a look's work
    more), ``free`` of it, at every so many steps."""

    graph: int
    free: int = 0
    every: int = 1


def looks_of(cfg: TextLatentRecipe, *, cycles: bool) -> list[Looks]:
    """All losses of an arm."""
    found = [Looks(len(cfg.learn.modes.mode.split("+")))]
    text, latent, prior = cfg.learn.cycles.t2l2t, cfg.learn.cycles.l2t2l, cfg.learn.prior
    if cycles and text.weight > 0:
        asked = text.repeats if text.source in ("model", "noise") else 0
        through = asked if text.bridge != "detach" or prior.weight > 0 else 0
        found.append(Looks(text.repeats + through, asked - through, text.every))
    elif cycles and prior.weight > 0:
        found.append(Looks(1, 0, prior.every))
    if cycles and latent.weight > 0:
        steps = 0 if latent.source == "data" else latent.steps
        found.append(Looks(latent.repeats, steps * latent.repeats, latent.every))
    return found


class LooksTask(Task):
    """A step as the network sees it: so many looks at each sample, all tokens hidden.

    Args:
        graph: looks that a gradient is taken through, at once. free: without gradient.
    """

    def __init__(self, network: TextLatentNet, *, graph: int, free: int):
        super().__init__()
        self.network, self.graph, self.free = network, graph, free

    def objectives(self) -> list[Objective]:
        """One, over the network."""
        return [Objective("text_latent", list(self.network.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Sum of squares of the latents and cross-entropy of all tokens."""
        with torch.no_grad():
            for _ in range(self.free):
                self._look(batch["tokens"], batch["latents"])
        losses = [self._look(batch["tokens"], batch["latents"]) for _ in range(self.graph)]
        return {"loss": torch.stack(losses).sum()}

    def _look(self, tokens: Tensor, latents: Tensor) -> Tensor:
        t, places = torch.ones(len(tokens)), torch.arange(tokens.numel())
        out = self.network(tokens, latents, t, t, positions=places)
        assert out.logits is not None and out.latent is not None
        nats = torch.nn.functional.cross_entropy(out.logits.float(), tokens.flatten())
        return nats + (out.latent - latents).square().mean()


class InverterTask(Task):
    """`latentsmith.backbones.text_inverter_task.TextInverterTask` on batches of pairs alone."""

    def __init__(self, network: TextInverter):
        super().__init__()
        self.network = network

    def objectives(self) -> list[Objective]:
        """One, over the network."""
        return [Objective("inverter", list(self.network.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Nats of all tokens."""
        nats, _ = self.network.nll(batch["tokens"], batch["latents"])
        return {"loss": nats.mean()}


class _Parts:
    """Networks, tasks and batches of one run."""

    def __init__(self, cfg: TextLatentRecipe):
        self.cfg = cfg
        self.vocabulary = cfg.tokens.vocabulary + 4  # and mask, pad, eos, unknown
        self.text = text_shape(cfg.text_encoder)
        self.shape = (1, self.text.width)

    def trainings(self) -> list[Training]:
        """The arms, then the decoders they are compared with."""
        cfg = self.cfg
        found = []
        for arm in cfg.arms:
            terms = looks_of(cfg, cycles=arm == "cycles")
            graph, free = sum(t.graph for t in terms), sum(t.free for t in terms)
            mean = sum((3 * t.graph + t.free) / t.every for t in terms)
            found.append(
                Training(arm, cfg.train, "train", partial(self.model, graph, free), self.pairs,
                         {"network": "network"}, share=mean / (3 * graph + free))
            )  # fmt: skip
        train = cfg.baselines.train or cfg.train
        setting = "train" if cfg.baselines.train is None else "baselines.train"
        return found + [
            Training(order, train, setting, partial(self.inverter, order), self.pairs,
                     {"decoder": "network"})
            for order in cfg.baselines.trained
        ]  # fmt: skip

    def network(self) -> TextLatentNet:
        """On meta."""
        with torch.device("meta"):
            return self.cfg.network.build(self.vocabulary, self.cfg.tokens.length, self.shape)

    def model(self, graph: int, free: int) -> LooksTask:
        """An arm's step."""
        return LooksTask(self.network(), graph=graph, free=free)

    def inverter(self, order: Order) -> InverterTask:
        """A decoder of the model's size."""
        shape = self.vocabulary, self.cfg.tokens.length, self.shape
        size = sum(p.numel() for p in self.network().parameters())
        config = replace(self.cfg.baselines.inverter, order=order).matched(size, *shape)
        with torch.device("meta"):
            return InverterTask(config.build(*shape))

    def pairs(self, n: int) -> Batch:
        """Texts with their latents."""
        tokens = torch.zeros(n, self.cfg.tokens.length, dtype=torch.int64)
        latents = torch.empty(n, *self.shape)
        return {"index": torch.arange(n), "tokens": tokens, "latents": latents}

    def passes(self, rows: int | None) -> list[Pass]:
        """The text encoder over the corpus."""
        if self.text.model is None or self.cfg.imported is not None:
            return []
        length = self.text.length

        def read(model: torch.nn.Module, n: int) -> None:
            model(input_ids=torch.zeros(n, length, dtype=torch.int64))

        return [Pass("latents of texts", partial(text_encoder, self.text), read, rows)]
