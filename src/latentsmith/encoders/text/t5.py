"""T5's encoder (Raffel et al. 2020), the usual text conditioning of large image generators."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.encoders.hub import load_config, load_model
from latentsmith.encoders.text.base import (
    TEXT_ENCODERS,
    TextEncoder,
    TextEncoderConfig,
    TextKind,
    TextOutput,
    load_tokenizer,
    mean_pool,
)
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "google/flan-t5-base"


@TEXT_ENCODERS.register("t5", help="T5 / Flan-T5 encoder, any size; hub id or folder")
@schema
class T5Config(TextEncoderConfig):
    """T5's encoder without its decoder, computed in float32 (float16 overflows)."""

    kind: Literal["t5"] = "t5"
    source: str = EXAMPLE
    """Hub id (``google/t5-v1_1-xxl``, ``google/flan-t5-base``) or folder."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer, when it is not beside the weights."""
    length: Annotated[int, Field(ge=2)] = 120
    """Tokens read of a text, end token included; the rest is cut."""
    output: TextKind = "sequence"
    """``sequence``: every token's vector, zero where there is none; ``embedding``: their mean."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "T5":
        """Load the weights. Raises UserError when they cannot be had."""
        from transformers import T5EncoderModel

        load_config(self.source, kinds=("t5",), example=EXAMPLE)
        model = load_model(T5EncoderModel, self.source, example=EXAMPLE)
        return T5(model, load_tokenizer(self.tokenizer or self.source, example=EXAMPLE), self)


class T5(TextEncoder):
    """Frozen T5 encoder; see `T5Config`."""

    name = "t5"

    def __init__(self, model: Any, tokenizer: Any, config: T5Config):
        super().__init__(model, tokenizer, config.length, config.output)
        self.dim = self.width = model.config.d_model

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → mean over tokens [B, D], sequence [B, L, D]."""
        ids, cut = self.tokens(texts, full=False)
        hidden = self.model(**ids).last_hidden_state
        pooled = mean_pool(hidden, ids["attention_mask"])
        sequence, mask = self.pad(hidden, ids["attention_mask"])
        return TextOutput(pooled, sequence, mask, cut)
