"""What a run would cost: the same networks and tasks as the stages', without weights or data."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.semantic_task import SemanticTask
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.edit_task import TARGET, EditTask
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.planning.data import training_rows
from latentsmith.planning.published import autoencoder_on_meta, image_encoder, lpips, text_shape
from latentsmith.planning.published import text_encoder as text_encoder_on_meta
from latentsmith.planning.stage import Pass, RecipePlan, Store, Training
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig, SemanticStageConfig
from latentsmith.recipes.psvae.on_meta import semantic_on_meta, transformer_on_meta
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.text_table import TextTable
from latentsmith.training.task import Batch


def plan(cfg: PSVAEConfig) -> RecipePlan:
    """Stages that train, caches, and what they are made by. Raises UserError for settings that do
    not fit and shapes that are nowhere to be had."""
    parts = _Parts(cfg)
    return RecipePlan(
        trainings=[*parts.autoencoders(), *parts.transformers()],
        passes=parts.passes(),
        stores=parts.stores(),
        facts={
            "images": f"{cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²",
            "latents": ", ".join(
                f"{arm} {'x'.join(map(str, parts.shape(arm)))}" for arm in cfg.arms
            ),
            "texts": f"{cfg.text_encoder.kind}, {parts.text.length} tokens of {parts.text.width}",
            "edits": "yes, twice the tokens" if parts.edits else "no",
        },
    )


class _Parts:
    """Networks, tasks and batches of one run."""

    def __init__(self, cfg: PSVAEConfig):
        self.cfg = cfg
        self.text = text_shape(cfg.text_encoder)
        self.rows = training_rows(cfg.data)
        side = cfg.transform.resolution
        self._shapes = {arm: self.autoencoder(arm).latent_shape(side) for arm in cfg.arms}
        self.edits = bool(getattr(cfg.data, "edits", False)) and cfg.diffusion.edit_share > 0

    # Stages 1 and 2 -----------------------------------------------------------------------------

    def autoencoder(self, arm: Arm) -> Autoencoder:
        """On meta."""
        if arm == "vae":
            return autoencoder_on_meta(self.cfg.vae.autoencoder)[0]
        return semantic_on_meta(self.cfg, arm)

    def shape(self, arm: Arm) -> tuple[int, int, int]:
        """(C, h, w) of an arm's latents."""
        return self._shapes[arm]

    def autoencoders(self) -> list[Training]:
        """svae, pixel, and those that are compared with."""
        cfg = self.cfg
        parts = {
            "encoder": "autoencoder.encoder", "projector": "autoencoder.projector",
            "reader": "autoencoder.reader", "pixel decoder": "autoencoder.pixels",
        }  # fmt: skip
        target = {"frozen target": "target"} if cfg.pixel.objective.encoder_lr > 0 else {}
        target |= {"LPIPS": "lpips"} if cfg.pixel.objective.perceptual.weight > 0 else {}
        semantic = partial(Training, batch=self.images)
        found = [
            semantic("svae", cfg.svae.train, "svae.train", self.svae, parts=parts),
            semantic("pixel", cfg.pixel.train, "pixel.train", self.pixel, parts=parts | target),
        ]
        if "rae" in cfg.arms:
            found.append(semantic("rae", cfg.pixel.train, "pixel.train", self.rae, parts=parts))
        if "vae" in cfg.arms:
            pixels = {"autoencoder": "autoencoder"}
            found.append(semantic("vae", cfg.vae.train, "vae.train", self.vae, parts=pixels))
        return found

    def svae(self) -> SemanticTask:
        """Stage 1."""
        return self._semantic(self.cfg.svae, "svae")

    def pixel(self) -> SemanticTask:
        """Stage 2; the target beside, where the encoder trains."""
        return self._semantic(self.cfg.pixel, "psvae")

    def rae(self) -> SemanticTask:
        """The features themselves, and a pixel decoder."""
        objective = replace(
            self.cfg.pixel.objective, semantic=0.0, cosine=0.0, kl=0.0, encoder_lr=0.0
        )
        stage = SemanticStageConfig(objective=objective, train=self.cfg.pixel.train)
        return self._semantic(stage, "rae")

    def _semantic(self, stage: SemanticStageConfig, arm: Arm) -> SemanticTask:
        trains = stage.objective.encoder_lr > 0
        target = image_encoder(self.cfg.autoencoder.encoder) if trains else None
        autoencoder = semantic_on_meta(self.cfg, arm)
        more: dict[str, Any] = {}
        if stage.pairs is not None:
            frozen = target or autoencoder.encoder
            more = {
                "losses": {"pairs": stage.pairs}, "terms": {"encoder": 1.0},
                "online": {"encoder": frozen.vector},
            }  # fmt: skip
        return SemanticTask(
            autoencoder, stage.objective, target=target, lpips=_lpips(stage.objective), **more
        )

    def vae(self) -> AutoencoderTask:
        """The pixel autoencoder that is compared with."""
        objective = self.cfg.vae.objective
        return AutoencoderTask(self.autoencoder("vae"), objective, lpips=_lpips(objective))

    def images(self, n: int) -> Batch:
        """Images [n, C, H, W]."""
        return {"index": torch.arange(n), "image": self._pixels(n)}

    def _pixels(self, n: int) -> torch.Tensor:
        side = self.cfg.transform.resolution
        return torch.empty(n, self.cfg.transform.channels, side, side)

    # Stage 3 ------------------------------------------------------------------------------------

    def transformers(self) -> list[Training]:
        """dit, of each arm."""
        return [
            Training(
                "dit" if arm == "psvae" else f"dit-{arm}", self.cfg.train, "train",
                partial(self.transformer, arm), partial(self.latents, arm),
                {"transformer": "backbone"},
            )
            for arm in reversed(self.cfg.arms)
        ]  # fmt: skip

    def transformer(self, arm: Arm) -> DiffusionTask:
        """The task of an arm's latents; with edits where the data have such."""
        shape = self.shape(arm)
        network = transformer_on_meta(self.cfg, shape, arm)
        normalizer = replace(LatentNormalizer.identity(shape[0]), stated=True)
        table = self._table()
        if self.edits:
            return EditTask(
                network, self.cfg.diffusion, normalizer, texts=table, instructions=self._table()
            )
        known = {f: getattr(self.cfg.diffusion, f) for f in DiffusionConfig.__dataclass_fields__}
        return DiffusionTask(network, DiffusionConfig(**known), normalizer, texts=table)

    def _table(self) -> TextTable:
        """Every text of the training data, as far as a table holds them."""
        count = min(self.rows or 1, self._most())
        with torch.device("meta"):
            return TextTable(
                torch.empty(count, self.text.length, self.text.width, dtype=torch.float16),
                torch.zeros(count, dtype=torch.int64),
                mask=torch.ones(count, self.text.length, dtype=torch.bool),
            )

    def _most(self) -> int:
        from latentsmith.stores.text_table import MOST_BYTES

        return MOST_BYTES // (2 * self.text.length * self.text.width)

    def latents(self, arm: Arm, n: int) -> Batch:
        """What the caches give: latents, of edited images too, and numbers of texts."""
        names = ["latent"] if self.cfg.diffusion.latent == "mode" else ["mean", "logvar"]
        ends = ["", TARGET] if self.edits else [""]
        shape = self.shape(arm)
        return {
            "index": torch.arange(n), "text": torch.zeros(n, dtype=torch.int64),
            **{e + k: torch.empty(n, *shape, dtype=torch.float16) for e in ends for k in names},
        }  # fmt: skip

    # Caches ---------------------------------------------------------------------------------------

    def passes(self) -> list[Pass]:
        """Latents of each arm, embeddings of texts; of edited images and instructions too."""
        rows = None if self.rows is None else self.rows * (2 if self.edits else 1)
        size = self.cfg.cache_batch
        found = [
            Pass(f"latents {arm}", partial(self.autoencoder, arm),
                 lambda m, n: m.encode(self._pixels(n)), rows, size)
            for arm in self.cfg.arms
        ]  # fmt: skip
        if self.text.model is None:
            return found
        text = partial(text_encoder_on_meta, self.text)
        return [*found, Pass("texts", text, self._read, rows, size)]

    def _read(self, model: nn.Module, n: int) -> None:
        model(input_ids=torch.zeros(n, self.text.length, dtype=torch.int64))

    def stores(self) -> list[Store]:
        """Latents of each arm, texts; with edits two of each."""
        names = ["latent"] if self.cfg.diffusion.latent == "mode" else ["mean", "logvar"]
        found = []
        for side in ("", " edited") if self.edits else ("",):
            for arm in self.cfg.arms:
                fields = {name: FieldSpec(self.shape(arm), "float16") for name in names}
                found.append(Store(f"latents {arm}{side}", fields, self.rows))
            texts = {
                "embedding": FieldSpec((self.text.length, self.text.width), "float16"),
                "mask": FieldSpec((self.text.length,), "int64"),
            }
            name = "instructions" if side else "captions"
            found.append(Store(name, texts, self.rows, key_bytes=32))
        return found


def _lpips(objective: Any) -> Any:
    perceptual = objective.perceptual
    return lpips(perceptual.net) if perceptual.weight > 0 else None
