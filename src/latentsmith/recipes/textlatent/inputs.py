"""The corpus of one run: texts, latents, tokens, scale, and what is derived from them once."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import TextLatentNet
from latentsmith.config.saved import to_dict
from latentsmith.data.text.build import fit_tokenizer, prepare
from latentsmith.data.text.importer import import_corpus
from latentsmith.data.text.normalizer import VectorNormalizer
from latentsmith.data.text.pairs import PairBatches, PairData, encoder_digest
from latentsmith.data.text.store import TextLatents
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.diffusion.masked import MaskedText
from latentsmith.encoders.text import TextEncoder
from latentsmith.errors import UserError
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.metrics.text_baselines import RidgeBag
from latentsmith.metrics.token_odds import TokenOdds
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.sampling.text_latent.translator import MadeBy
from latentsmith.training.task import Batch
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.counter import Counter

PSEUDO = "pseudo_latents"
"""Column of a control's latents in training batches."""
FEW = 128
"""Held-out rows that a training looks at, at least: of a small batch, most of the loss is luck."""


class Inputs:
    """Texts and latents of one run; each is made when first asked for."""

    def __init__(self, cfg: TextLatentRecipe, team: Team):
        self.cfg, self.team = cfg, team

    @cached_property
    def encoder(self) -> TextEncoder:
        """The frozen text encoder, on the team's device. Raises UserError when it cannot be had."""
        return self.cfg.text_encoder.build().to(self.team.device)

    @cached_property
    def _corpus(self) -> tuple[TextLatents, Tokenizer]:
        """The main process makes it, the others then find it made."""
        if self.team.world_size > 1:
            self.team.on_main(self._make)
        return self._made()

    def _make(self) -> None:
        self._made()

    def _made(self) -> tuple[TextLatents, Tokenizer]:
        cfg, cache = self.cfg, cache_root()
        if cfg.imported is not None:
            data = import_corpus(cfg.imported, cache / "corpora", cache)
            return data, fit_tokenizer(data, cfg.tokens)
        with Counter("texts embedded", 1) as count:

            def progress(done: int, total: int) -> None:
                count.total = total
                count(done)

            return prepare(cfg.data, cfg.tokens, self.encoder, cache, progress=progress)

    @property
    def data(self) -> TextLatents:
        """The corpus on disk."""
        return self._corpus[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the training texts."""
        return self._corpus[1]

    @cached_property
    def normalizer(self) -> VectorNormalizer:
        """Fitted on the latents that training sees."""
        data = self.data
        rows = data.rows("train", text=False, latent=False)
        _, keeps = self.cfg.pairing.masks(len(rows))
        x = data.latents(rows[keeps & data.has_latent[rows]])
        return self.cfg.normalizer.fit(x, encoder_digest=encoder_digest(data))

    @cached_property
    def train(self) -> PairData:
        """Training rows, some of them perhaps without one side."""
        return PairData.of(
            self.data, "train", self.tokenizer, self.normalizer, pairing=self.cfg.pairing
        )

    @cached_property
    def pairs(self) -> PairData:
        """Those with both sides: what closed forms and decoders learn from."""
        train = self.train
        both = train.has_text & train.has_latent
        if bool(both.all()):
            return train
        cached = None if train.cached is None else train.cached[both]
        return replace(
            train, tokens=train.tokens[both], length=train.length[both], cached=cached,
            has_text=train.has_text[both], has_latent=train.has_latent[both],
            rows=train.rows[both],
        )  # fmt: skip

    @cached_property
    def val(self) -> PairData:
        """Held-out pairs that choices are made on."""
        return PairData.of(self.data, "val", self.tokenizer, self.normalizer)

    @cached_property
    def test(self) -> PairData:
        """Held-out pairs that are measured."""
        return PairData.of(self.data, "test", self.tokenizer, self.normalizer)

    @property
    def process(self) -> MaskedText:
        """How texts are noised."""
        t = self.tokenizer
        return MaskedText(t.size, t.mask_id, t.eos_id, t.pad_id, known_length=not t.policy_fills)

    @property
    def made_by(self) -> MadeBy:
        """What made the latents."""
        settings = None if self.cfg.imported is not None else to_dict(self.cfg.text_encoder)
        return MadeBy(dict(self.data.store.manifest.encoder), settings)

    def reembed(self) -> tuple[TextEncoder | None, str]:
        """The encoder that made the latents, or why it cannot be asked."""
        if not self.cfg.evaluate.reembed:
            return None, "evaluate.reembed is false"
        try:
            if self.cfg.imported is None:
                return self.encoder, ""
            return self.made_by.build(), ""
        except UserError as reason:
            return None, str(reason)

    # Training -------------------------------------------------------------------------------------

    def batches(self, pairs: PairData, batch_size: int, seed: int, *, pseudo: bool = False) -> Any:
        """Shuffled training batches of this process; ``pseudo``: with a ridge's latents."""
        return PairBatches(
            pairs, batch_size, seed, self.team.rank, self.team.world_size,
            columns={PSEUDO: self.pseudo_latents} if pseudo else {},
            looks=self.cfg.pairing.looks if pairs is self.train else None,
        )  # fmt: skip

    def few(self, count: int) -> Batch:
        """The first held-out rows as a training batch: ``count`` of them, or `FEW` if more."""
        return self.val.batch(torch.arange(min(max(count, FEW), len(self.val))))

    @cached_property
    def reference(self) -> LatentReference:
        """What training latents look like, for priors."""
        there = self.train.has_latent.nonzero()[:, 0]
        return LatentReference.fit(self.train.latents(there))

    @cached_property
    def ridge(self) -> RidgeBag:
        """Latents (normalized) linear in bags of tokens, fitted on pairs."""
        pairs, val = self.pairs, self.val
        return RidgeBag.fit(
            pairs.tokens,
            all_latents(pairs),
            val.tokens,
            all_latents(val),
            vocabulary=self.tokenizer.size,
            most=self.cfg.baselines.bag_tokens,
        )

    @cached_property
    def closed_forms(self) -> tuple[RidgeBag, TokenOdds]:
        """What linear paths start from, fitted on pairs: latents linear in bags of all tokens, and
        tokens log-linear in latents."""
        pairs, val, size = self.pairs, self.val, self.tokenizer.size
        known = pairs.tokens, all_latents(pairs), val.tokens, all_latents(val)
        bag = RidgeBag.fit(*known, vocabulary=size, most=size)
        return bag, TokenOdds.fit(*known, vocabulary=size)

    def start_linear(self, network: TextLatentNet) -> None:
        """Set a network's linear paths to their closed forms; without pairs they stay at 0."""
        if len(self.pairs) == 0:
            return
        ridge, odds = self.closed_forms
        to_latent, to_tokens = network.linear_paths()
        to_latent.start(ridge.bags.tokens, ridge.weight, ridge.bias)
        to_tokens.start(odds.weight, odds.bias)

    @cached_property
    def pseudo_latents(self) -> Tensor:
        """The ridge's latents of all training texts [N, K0, D'], zero where there is no text: the
        control of a cycle that asks the model."""
        found = self.ridge(self.train.tokens).view(len(self.train), *self.train.shape)
        return torch.where(self.train.has_text[:, None, None], found, 0.0)


def all_latents(pairs: PairData) -> Tensor:
    """Normalized latents of all rows [N, K0, D']."""
    return pairs.latents(torch.arange(len(pairs)))
