"""The one stage of the cache recipe, also called by the verb without a run."""

import functools
import logging
from dataclasses import replace
from pathlib import Path

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.load import open_autoencoder
from latentsmith.config.run import Run
from latentsmith.data.base import Dataset, Split
from latentsmith.data.loader import Loader
from latentsmith.encoders.base import Encoder
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.errors import UserError
from latentsmith.losses.perceptual import load_lpips
from latentsmith.recipes.cache.config import CacheConfig
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.build import check_place
from latentsmith.stores.contents import Contents, compute_shards, fill
from latentsmith.stores.describe import describe
from latentsmith.stores.features import token_contents, vector_contents
from latentsmith.stores.latents import latent_contents
from latentsmith.stores.layout import MANIFEST
from latentsmith.stores.reconstructions import reconstruction_contents
from latentsmith.stores.texts import Texts, captions, class_texts, file_texts, text_contents
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.on_ray import on_ray

log = logging.getLogger(__name__)


def cache(cfg: CacheConfig, run: Run) -> None:
    """Make the store at its default place, or see that it is there."""
    store = make(cfg)
    run.mark_done("store", {"store": str(store.path), "digest": store.manifest.fingerprint()})


def make(cfg: CacheConfig, out: Path | None = None) -> FeatureStore:
    """The finished store at ``out``, by default in the user's cache, named by its digest.

    Raises:
        UserError: model or data cannot be had, do not fit each other, give values that cannot be
            stored, or ``out`` holds something else.
    """
    if out is not None:
        check_place(out)  # before hours of work for it
    team = Team.join(several_objectives=False)
    contents = contents_of(cfg, team)
    path = contents.default_path() if out is None else out
    log.info("%s of %s, into %s", cfg.what, contents.manifest.source["name"], path)
    if cfg.engine == "ray":
        _on_ray(cfg, path, team)
    store = fill(
        path, contents, batch_size=cfg.batch_size, rank=team.rank, world_size=team.world_size
    )
    if team.is_main:
        print(describe(store.manifest), path, sep="\n")
    return store


def _on_ray(cfg: CacheConfig, path: Path, team: Team) -> None:
    """Tasks on Ray compute the missing shards. What a lost one leaves, `fill` computes here."""
    if team.world_size > 1:
        raise UserError("engine=ray starts its own tasks: give the command without torchrun")
    if not (path / MANIFEST).is_file():
        work = functools.partial(_shards, replace(cfg, engine="here"), path.absolute())
        on_ray(work, cfg.ray, f"{cfg.what} of {cfg.data.kind if cfg.data else 'texts'}")


def _shards(cfg: CacheConfig, path: Path, rank: int, workers: int) -> None:
    """One task's part of the store, on whatever machine this is."""
    contents = contents_of(cfg, Team.join(several_objectives=False))
    compute_shards(path, contents, batch_size=cfg.batch_size, rank=rank, world_size=workers)


def contents_of(cfg: CacheConfig, team: Team) -> Contents:
    """Models and data, put together; computes nothing yet. Raises UserError as `make`."""
    if cfg.what == "text":
        encoder = cfg.text_encoder.build().to(team.device)
        return text_contents(encoder, _texts(cfg, team), dtype=cfg.dtype or "float16")
    if cfg.what == "reconstructions":
        return _reconstructions(cfg, team)
    if cfg.what == "latents":
        autoencoder = _autoencoder(cfg, team)
        dtype = cfg.dtype or "float16"
        assert dtype in ("float32", "float16", "bfloat16")  # the config's own check
        return latent_contents(
            autoencoder,
            _data(cfg, team),
            cfg.transform.build(),
            what=cfg.latents.keep,
            dtype=dtype,
            flip=cfg.latents.flip,
            seed=cfg.seed,
            precision=cfg.latents.precision,
            unreadable_share=cfg.unreadable,
        )
    encoder = _encoder(cfg, team)
    data, transform = _data(cfg, team), cfg.transform.build()
    if cfg.what == "tokens":
        return token_contents(
            encoder,
            data,
            transform,
            dtype=cfg.dtype or "float16",
            unit=cfg.tokens.unit,
            grid=cfg.tokens.grid,
            unreadable_share=cfg.unreadable,
        )
    return vector_contents(
        encoder,
        data,
        transform,
        dtype=cfg.dtype or "float32",
        unit=cfg.vectors.unit,
        unreadable_share=cfg.unreadable,
    )


def _reconstructions(cfg: CacheConfig, team: Team) -> Contents:
    kept, lpips = cfg.reconstructions, None
    if kept.lpips is not None:
        lpips = load_lpips(kept.lpips, trunk=kept.lpips_trunk).to(team.device)
    return reconstruction_contents(
        _autoencoder(cfg, team),
        _encoder(cfg, team),
        _data(cfg, team),
        cfg.transform.build(),
        lpips=lpips,
        unreadable_share=cfg.unreadable,
    )


def _autoencoder(cfg: CacheConfig, team: Team) -> Autoencoder:
    autoencoder = open_autoencoder(cfg.autoencoder).to(team.device)
    autoencoder.latent_shape(cfg.transform.resolution)  # a misfit shows before data are fetched
    return autoencoder


def _data(cfg: CacheConfig, team: Team, split: Split | None = None) -> Dataset:
    """The main process fetches what is missing; then all open it."""
    config, part = cfg.data, cfg.split if split is None else split
    assert config is not None  # the config's own check

    def build() -> Dataset:
        dataset = config.build(part, cache_root() / "data")
        dataset.digest  # noqa: B018 - reads every file of a folder once, and remembers
        return dataset

    if team.world_size > 1:
        team.on_main(lambda: build() and None)
    return build()


def _encoder(cfg: CacheConfig, team: Team) -> Encoder:
    assert cfg.encoder is not None  # the config's own check
    encoder = cfg.encoder.build()
    if isinstance(encoder, PixelPCA) and encoder.needs_fit:
        loader = Loader(
            _data(cfg, team, "train"),
            cfg.transform.build(),
            batch_size=cfg.batch_size,
            seed=0,
            shuffle=False,
        )
        encoder.fit(batch["image"] for batch in loader.epoch())
    return encoder.to(team.device)


def _texts(cfg: CacheConfig, team: Team) -> Texts:
    if cfg.text.texts is not None:
        return file_texts(cfg.text.texts)
    if cfg.text.template is not None:
        return class_texts(_data(cfg, team), cfg.text.template)
    return captions(_data(cfg, team))
