"""Captions of the built-in shapes: sentences of 48 words from nine templates."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.shapes.texts import caption
from latentsmith.data.streams import uniforms
from latentsmith.data.text.base import CORPORA, Corpus, CorpusConfig, distinct


@CORPORA.register("captions", help="captions of the built-in shapes: 48 words, nearly linear")
@schema
class CaptionsConfig(CorpusConfig):
    """What `latentsmith.data.shapes` says of its pictures; no picture is drawn.

    A linear map reads most of such a sentence off its embedding, so this corpus says whether a
    model works at all, and nothing about whether it is any good.
    """

    kind: Literal["captions"] = "captions"
    scenes: Annotated[int, Field(ge=1)] = 20_000
    """Scenes described; equal captions count once."""
    captions: Literal["full", "mixed"] = "mixed"
    """full: every caption names every factor but the rotation; mixed: some leave factors out."""
    val_count: Annotated[int, Field(ge=1)] = 500
    """Held-out texts that choices are made on."""
    test_count: Annotated[int, Field(ge=1)] = 500
    """Held-out texts that are measured."""

    def read(self, cache: Path) -> Corpus:
        """Nothing is fetched or kept."""
        rows = torch.arange(self.scenes)
        scenes = ShapesConfig(train_count=self.scenes, seed=self.seed).build("train", cache)
        draws = uniforms(("captions", self.seed), rows, 1)[:, 0].tolist()
        full = self.captions == "full"
        pairs = zip(scenes.scenes(rows), draws, strict=True)
        said = [caption(scene, u, full=full)[0] for scene, u in pairs]
        return Corpus("captions", distinct(said, lower=True), "told by latentsmith", "", len(said))
