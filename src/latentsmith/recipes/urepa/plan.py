"""What a run would cost: the same networks and tasks as the stages', without weights or data."""

import math
from dataclasses import dataclass, replace

import torch

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.backbones.sd_unet import Adapt, SDUNetConfig
from latentsmith.backbones.unet_memory import narrow_frozen, recompute_where_needed
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.diffusion.align import TEACHER
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.planning.data import classes, training_rows
from latentsmith.planning.published import (
    TextShape,
    autoencoder_on_meta,
    image_encoder,
    lpips,
    text_shape,
)
from latentsmith.planning.stage import Figure, Pass, RecipePlan, Store, Training
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.on_meta import network_on_meta
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.text_table import TextTable
from latentsmith.training.task import Batch


def plan(cfg: UREPAConfig) -> RecipePlan:
    """Stages that train, caches, and what they are made by. Raises UserError for settings that do
    not fit and shapes that are nowhere to be had."""
    parts = _Parts.of(cfg)
    rows = training_rows(cfg.data)
    return RecipePlan(
        trainings=parts.trainings(),
        passes=parts.passes(rows),
        stores=parts.stores(rows),
        facts={
            "images": f"{cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²",
            "latents": "x".join(map(str, parts.shape)),
            "teacher": f"{cfg.teacher.kind}, {math.prod(parts.grid)} tokens of {parts.width}",
            "texts": f"{cfg.text_encoder.kind}, {parts.text.length} tokens of {parts.text.width}",
        },
        assumed=[text for text in (parts.guessed, parts.assumed) if text],
        figures=FIGURES if cfg.pretrain is None else (),
    )


@dataclass(frozen=True)
class _Parts:
    """Shapes of one run: latents (C, h, w), the teacher's tokens, texts."""

    cfg: UREPAConfig
    shape: tuple[int, int, int]
    grid: tuple[int, int]
    width: int
    text: TextShape
    guessed: str
    assumed: str

    @classmethod
    def of(cls, cfg: UREPAConfig) -> "_Parts":
        autoencoder, guessed = autoencoder_on_meta(cfg.autoencoder)
        shape = autoencoder.latent_shape(cfg.transform.resolution)
        teacher, side = image_encoder(cfg.teacher), cfg.transform.resolution
        tokens = teacher(torch.empty(1, cfg.transform.channels, side, side, device="meta")).tokens
        assert tokens is not None and teacher.grid is not None
        grid = cfg.caches.grid or teacher.grid
        _, assumed = network_on_meta(cfg, shape)
        text = text_shape(cfg.text_encoder)
        return cls(cfg, shape, grid, tokens.shape[2], text, guessed, assumed)

    # Stages -----------------------------------------------------------------------------------

    def trainings(self) -> list[Training]:
        cfg, found = self.cfg, list[Training]()
        if cfg.pretrain is not None:
            found += [
                Training(
                    "autoencoder", cfg.pretrain.autoencoder, "pretrain.autoencoder",
                    self.autoencoder_task, self.images, {"autoencoder": "autoencoder"},
                ),
                Training(
                    "denoiser", cfg.pretrain.denoiser, "pretrain.denoiser",
                    self.denoiser_task, self.latents, {"U-Net": "backbone"},
                ),
            ]  # fmt: skip
        unet = {"U-Net": "backbone"}
        if cfg.has_control:
            found.append(
                Training("unaligned", cfg.train, "train", self.control, self.latents, unet)
            )
        parts = unet | {"head": "aligner"}
        found.append(Training("aligned", cfg.train, "train", self.aligned, self.latents, parts))
        return found

    def autoencoder_task(self) -> AutoencoderTask:
        assert self.cfg.pretrain is not None
        objective = self.cfg.pretrain.objective
        network = lpips(objective.perceptual.net) if objective.perceptual.weight > 0 else None
        return AutoencoderTask(self.autoencoder(), objective, lpips=network)

    def autoencoder(self) -> KLAutoencoder:
        return autoencoder_on_meta(self.cfg.autoencoder)[0]

    def network(self, config: SDUNetConfig, adapt: Adapt) -> SDUNet:
        """On meta, with what trains of it, laid out and stored as it will be."""
        network, _ = network_on_meta(
            self.cfg, self.shape, adapt=adapt, text_length=self.text.length
        )
        narrow_frozen(network.unet, getattr(torch, config.frozen_dtype))
        if config.gradient_checkpointing:
            recompute_where_needed(network.unet)
        network.config = replace(network.config, channels_last=config.channels_last)
        return network

    def denoiser_task(self) -> DiffusionTask:
        assert self.cfg.pretrain is not None
        section = self.cfg.pretrain
        network = self.network(section.unet, "full")
        diffusion = section.diffusion.of(network, aligned=False)
        return self._task(network, replace(diffusion, latent=self.cfg.diffusion.latent))

    def control(self) -> DiffusionTask:
        network = self.network(self.cfg.unet, self.cfg.unet.adapt)
        return self._task(network, self.cfg.diffusion.of(network, aligned=False))

    def aligned(self) -> DiffusionTask:
        network = self.network(self.cfg.unet, self.cfg.unet.adapt)
        return self._task(network, self.cfg.diffusion.of(network, aligned=True))

    def _task(self, network: SDUNet, diffusion: DiffusionConfig) -> DiffusionTask:
        count = classes(self.cfg.data) + 1
        with torch.device("meta"):
            table = TextTable(
                torch.empty(count, self.text.length, self.text.width, dtype=torch.float16),
                torch.zeros(count, dtype=torch.int64),
            )
        normalizer = replace(LatentNormalizer.identity(self.shape[0]), stated=True)
        return DiffusionTask(network, diffusion, normalizer, teacher_dim=self.width, texts=table)

    # Batches ----------------------------------------------------------------------------------

    def images(self, n: int) -> Batch:
        """Images [n, C, H, W]."""
        return {"index": torch.arange(n), "image": self._pixels(n)}

    def _pixels(self, n: int) -> torch.Tensor:
        side = self.cfg.transform.resolution
        return torch.empty(n, self.cfg.transform.channels, side, side)

    def latents(self, n: int) -> Batch:
        """What the caches give: latents, the teacher's tokens, numbers of texts."""
        names = ["latent"] if self.cfg.diffusion.latent == "mode" else ["mean", "logvar"]
        dtype = torch.float16 if self.cfg.caches.dtype == "int8" else None
        stored = dtype or getattr(torch, self.cfg.caches.dtype)
        tokens = torch.empty(n, math.prod(self.grid), self.width, dtype=stored)
        return {
            "index": torch.arange(n), "label": torch.zeros(n, dtype=torch.int64),
            "text": torch.zeros(n, dtype=torch.int64), TEACHER: tokens,
            **{name: torch.empty(n, *self.shape, dtype=torch.float16) for name in names},
        }  # fmt: skip

    # Caches -----------------------------------------------------------------------------------

    def passes(self, rows: int | None) -> list[Pass]:
        at_once = self.cfg.caches.batch_size
        return [
            Pass("latents", self.autoencoder,
                 lambda m, n: m.encode(self._pixels(n)), rows, at_once),
            Pass("tokens", lambda: image_encoder(self.cfg.teacher),
                 lambda m, n: m(self._pixels(n)), rows, at_once),
        ]  # fmt: skip

    def stores(self, rows: int | None) -> list[Store]:
        cfg = self.cfg
        names = ["latent"] if cfg.diffusion.latent == "mode" else ["mean", "logvar"]
        latents = {name: FieldSpec(self.shape, "float16") for name in names}
        tokens = {"tokens": FieldSpec((math.prod(self.grid), self.width), cfg.caches.dtype)}
        texts = {"embedding": FieldSpec((self.text.length, self.text.width), "float16")}
        count = classes(cfg.data) + 1 if cfg.texts == "classes" else rows
        return [
            Store("latents", latents | {"label": FieldSpec((), "int64")}, rows),
            Store("tokens", tokens, rows),
            Store("texts", texts, count, key_bytes=32),
        ]


FIGURES = (
    Figure("latents on disk", "12 GB for 200,000 images", "store/latents@200000",
           "fp16 4x64x64 is 32 KiB an image; 12 is what float32 in LMDB would take"),
    Figure("teacher tokens on disk", "95 GB for 200,000 images", "store/tokens@200000",
           "256 tokens of 1,024 in fp16 are 512 KiB an image: 104.9 GB, which is 97.7 GiB"),
    Figure("peak memory, batch 128", "110 GB", "memory/aligned@128",
           "a mid-block LoRA needs no activations of the down blocks, and keeps frozen weights in "
           "bf16 and AdamW for 2.5 M parameters alone; the source counts 15 GB of optimizer for "
           "them"),
    Figure("step of 128", "1.9 s", "time/aligned@128",
           "67 images/s is 10 % of an H200's peak in a forward pass of 803 GFLOP and a backward "
           "pass through mid and up blocks alone"),
    Figure("40 epochs of 200,000 images", "33 h", "time/aligned@7997440",
           "62,480 steps of the above"),
)  # fmt: skip
