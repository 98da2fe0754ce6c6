"""CLIP's text tower (Radford et al. 2021), as Stable Diffusion's conditioning uses it."""

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
    check_length,
    load_tokenizer,
)
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "openai/clip-vit-large-patch14"


@TEXT_ENCODERS.register("clip_text", help="CLIP text tower; hub id or folder")
@schema
class ClipTextConfig(TextEncoderConfig):
    """CLIP's text encoder; its embedding lies in the space of ``encoder=clip``'s."""

    kind: Literal["clip_text"] = "clip_text"
    source: str = EXAMPLE
    """Hub id or folder of a CLIP model or of its text tower alone (a pipeline's
    ``text_encoder``)."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer, when it is not beside the weights."""
    length: Annotated[int, Field(ge=3)] | None = None
    """Tokens read of a text, begin and end included; left out: the model's own (77)."""
    projection: bool = True
    """``embedding`` is the one shared with images; false: before the projection."""
    output: TextKind = "sequence"
    """``sequence``: every position's vector after the last norm, also of the padding, which
    Stable Diffusion attends to; ``embedding``: the end token's."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "ClipText":
        """Load the weights. Raises UserError when they cannot be had or do not fit."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        kinds = ("clip", "clip_text_model")
        config = load_config(self.source, kinds=kinds, example=EXAMPLE)
        text = getattr(config, "text_config", config)
        text.projection_dim = config.projection_dim  # a whole model states it once, outside
        length = self.length or text.max_position_embeddings
        check_length(length, text.max_position_embeddings, self.source)
        model_class = CLIPTextModelWithProjection if self.projection else CLIPTextModel
        model = load_model(model_class, self.source, example=EXAMPLE, config=text)
        tokenizer = load_tokenizer(self.tokenizer or self.source, example=EXAMPLE)
        return ClipText(model, tokenizer, length, self)


class ClipText(TextEncoder):
    """Frozen CLIP text tower; see `ClipTextConfig`."""

    name = "clip_text"

    def __init__(self, model: Any, tokenizer: Any, length: int, config: ClipTextConfig):
        super().__init__(model, tokenizer, length, config.output)
        self.projection = config.projection
        self.width = model.config.hidden_size
        self.dim = model.config.projection_dim if config.projection else self.width

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → embedding [B, D], sequence [B, L, E]."""
        ids, cut = self.tokens(texts, full=True)
        # Without the mask, as in training: attention is causal, so it could only change padding.
        out = self.model(input_ids=ids["input_ids"])
        pooled = out.text_embeds if self.projection else out.pooler_output
        mask = ids["attention_mask"].bool()
        return TextOutput(pooled.float(), out.last_hidden_state.float(), mask, cut)

    def fingerprint(self) -> dict[str, object]:
        """See `TextEncoder.fingerprint`."""
        return super().fingerprint() | {"projection": self.projection}
