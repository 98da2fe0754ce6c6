"""What a run would cost: the same networks and tasks as the stages', without weights or data."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.task import REFERENCE, TOKENS, AutoencoderTask
from latentsmith.diffusion.align import TEACHER
from latentsmith.diffusion.latents import FLIPPED
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.encoders.base import Encoder, EncoderConfig
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.errors import UserError
from latentsmith.planning.data import classes, training_rows
from latentsmith.planning.published import autoencoder_on_meta, image_encoder, lpips
from latentsmith.planning.stage import Pass, RecipePlan, Store, Training
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.stores.base import FieldSpec
from latentsmith.training.task import Batch

ONLINE = "references"
"""The encoders that see each crop, in the task of a run with a random transform."""


def plan(cfg: MMRegConfig) -> RecipePlan:
    """Stages that train, caches, and what they are made by. Raises UserError for settings that do
    not fit and shapes that are nowhere to be had."""
    parts = _Parts(cfg)
    return RecipePlan(
        trainings=parts.trainings(),
        passes=parts.passes(),
        stores=parts.stores(),
        facts={
            "images": f"{cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²",
            "latents": "x".join(map(str, parts.shape)),
            "references": ", ".join(f"{n} = {c.kind}" for n, c in parts.spaces.items()),
            "loss": ", ".join(cfg.losses()) or "none: both arms are trained alike",
        },
        assumed=[f"autoencoder.source={cfg.autoencoder.source}{parts.assumed}"]
        if parts.assumed
        else [],
    )


class _Parts:
    """Networks, tasks and batches of one run."""

    def __init__(self, cfg: MMRegConfig):
        self.cfg = cfg
        autoencoder, self.assumed = autoencoder_on_meta(cfg.autoencoder)
        if autoencoder.channels != cfg.transform.channels:
            raise UserError(
                f"transform.channels is {cfg.transform.channels}, the autoencoder takes "
                f"{autoencoder.channels}"
            )
        self.shape = autoencoder.latent_shape(cfg.transform.resolution)
        self.spaces: Mapping[str, EncoderConfig] = {
            TRAINED_REFERENCE: cfg.encoder, **cfg.more_references,
        }  # fmt: skip
        self.online = not cfg.transform.build().deterministic
        self.rows = training_rows(cfg.data)
        self._known = {name: self._look(config) for name, config in self.spaces.items()}
        teacher = cfg.generation.teacher
        self.teacher = None if teacher is None else self._look(teacher)[1]

    # Stages -----------------------------------------------------------------------------------

    def trainings(self) -> list[Training]:
        """pretrain, baseline, regularized, generators."""
        cfg, g = self.cfg, self.cfg.generation
        arm = partial(Training, train=cfg.finetune, setting="finetune", batch=self.images)
        parts = {"autoencoder": "autoencoder"}
        if cfg.objective.perceptual.weight > 0:
            parts["LPIPS"] = "lpips"
        if cfg.objective.adversarial.weight > 0:
            parts["discriminator"] = "discriminator"
        online = {ONLINE: ONLINE} if self.online and cfg.losses() else {}
        found = [] if cfg.pretrain is None else [
            Training("pretrain", cfg.pretrain, "pretrain", self.plain, self.images, parts)
        ]  # fmt: skip
        return [
            *found,
            arm("baseline", build=self.plain, parts=parts),
            arm("regularized", build=self.regularized, parts=parts | online),
            Training(
                "generator", g.train, "generation.train", self.generator, self.latents,
                {"generator": "backbone"} | ({"head": "aligner"} if g.teacher else {}),
                times=2 * g.seeds,
            ),
        ]  # fmt: skip

    def autoencoder(self) -> KLAutoencoder:
        """On meta."""
        return autoencoder_on_meta(self.cfg.autoencoder)[0]

    def plain(self) -> AutoencoderTask:
        """Without regularizers."""
        objective = self.cfg.objective
        network = lpips(objective.perceptual.net) if objective.perceptual.weight > 0 else None
        return AutoencoderTask(self.autoencoder(), objective, lpips=network)

    def regularized(self) -> AutoencoderTask:
        """With them; where the transform is random the references are in the task."""
        cfg, losses = self.cfg, self.cfg.losses()
        perceptual = cfg.objective.perceptual
        encoders = {n: image_encoder(self.spaces[n]) for n in self._online_names()}
        task = AutoencoderTask(
            self.autoencoder(),
            cfg.objective,
            losses=losses,
            terms=cfg.terms,
            online={n: encoders[n].vector for n in cfg.terms} if self.online else None,
            online_tokens={n: partial(_tokens, encoders[n]) for n in self._teachers()}
            if self.online
            else None,
            token_widths={n: self.seen(n)[1][1] for n in self._teachers()},
            lpips=lpips(perceptual.net) if perceptual.weight > 0 else None,
        )
        setattr(task, ONLINE, torch.nn.ModuleDict(encoders))
        return task

    def _teachers(self) -> list[str]:
        return list(dict.fromkeys(n for c in self.cfg.losses().values() for n in c.teachers()))

    def _online_names(self) -> list[str]:
        return list(dict.fromkeys([*self.cfg.terms, *self._teachers()])) if self.online else []

    def generator(self) -> DiffusionTask:
        """Stage C's."""
        g = self.cfg.generation
        with torch.device("meta"):
            backbone = g.backbone.build(self.shape, classes(self.cfg.data))
        width = None if self.teacher is None else self.teacher[1]
        return DiffusionTask(
            backbone,
            g.diffusion,
            replace(LatentNormalizer.identity(self.shape[0]), stated=True),
            teacher_dim=width,
        )

    # Shapes -----------------------------------------------------------------------------------

    def seen(self, name: str) -> tuple[int, tuple[int, int]]:
        """(width of a reference's vector, (N, D) of its tokens; 0 without)."""
        return self._known[name]

    def _look(self, config: EncoderConfig) -> tuple[int, tuple[int, int]]:
        if isinstance(config, PixelPCAConfig):
            return config.components, (0, 0)
        encoder = image_encoder(config)
        images = self._pixels(1).to("meta")
        tokens = encoder(images).tokens
        shape = (0, 0) if tokens is None else (tokens.shape[1], tokens.shape[2])
        return encoder.vector(images).shape[1], shape

    def _pixels(self, n: int) -> Tensor:
        side = self.cfg.transform.resolution
        return torch.empty(n, self.cfg.transform.channels, side, side)

    def images(self, n: int) -> Batch:
        """Images with the cached references that the losses read."""
        found = {"index": torch.arange(n), "image": self._pixels(n)}
        if self.online or not self.cfg.losses():
            return found
        for name in self.cfg.terms:
            found[REFERENCE + name] = torch.empty(n, self.seen(name)[0])
        for name in self._teachers():
            found[TOKENS + name] = torch.empty(n, *self.seen(name)[1], dtype=torch.float16)
        return found

    def latents(self, n: int) -> Batch:
        """What the latents' store gives, with the teacher's tokens where there is one."""
        found = {"index": torch.arange(n), "label": torch.zeros(n, dtype=torch.int64)}
        for name in self._fields():
            found[name] = torch.empty(n, *self.shape, dtype=torch.float16)
        if self.teacher is not None:
            found[TEACHER] = torch.empty(n, *self.teacher, dtype=torch.float16)
        return found

    def _fields(self) -> list[str]:
        ends = ["", FLIPPED] if self.cfg.generation.flip else [""]
        return [name + end for end in ends for name in ("mean", "logvar")]

    # Caches -----------------------------------------------------------------------------------

    def passes(self) -> list[Pass]:
        """References (where they are cached), both arms' latents, the teacher's tokens."""
        g, size = self.cfg.generation, self.cfg.evaluate.card.batch_size
        images = 2 if g.flip else 1
        rows = None if self.rows is None else 2 * images * self.rows
        found = [
            Pass("latents, both arms", self.autoencoder, lambda m, n: m.encode(self._pixels(n)),
                 rows, size)
        ]  # fmt: skip
        named = {} if self.online else dict(self.spaces)
        named |= {} if g.teacher is None else {"teacher": g.teacher}
        return found + [
            Pass(f"reference {name}", partial(image_encoder, config),
                 lambda m, n: m(self._pixels(n)), self.rows, size)
            for name, config in named.items()
            if not isinstance(config, PixelPCAConfig)
        ]  # fmt: skip

    def stores(self) -> list[Store]:
        """One of latents for each arm; vectors; tokens."""
        latents = {name: FieldSpec(self.shape, "float16") for name in self._fields()}
        latents["label"] = FieldSpec((), "int64")
        found = [Store(f"latents {arm}", latents, self.rows) for arm in ("baseline", "regularized")]
        for name in self.spaces if not self.online else ():
            vector = FieldSpec((self.seen(name)[0],), "float32")
            found.append(Store(f"vectors {name}", {"vector": vector}, self.rows))
        for name in self._teachers() if not self.online else ():
            tokens = {"tokens": FieldSpec(self.seen(name)[1], "float16")}
            found.append(Store(f"tokens {name}", tokens, self.rows))
        if self.teacher is not None:
            tokens = {"tokens": FieldSpec(self.teacher, "float16")}
            found.append(Store("teacher tokens", tokens, self.rows))
        return found


def _tokens(encoder: Encoder, images: Tensor) -> Tensor:
    tokens = encoder(images).tokens
    assert tokens is not None  # settings refuse encoders without
    return tokens
