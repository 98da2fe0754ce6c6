"""SDXL's text conditioning (Podell et al. 2023): two CLIP text towers, side by side.

    sequence = [second-last hidden states of tower 1, of tower 2]    [L, E₁ + E₂]
    embedding = tower 2's projection of the end token                [P]

as diffusers' ``StableDiffusionXLPipeline.encode_prompt`` computes them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
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
    check_vocabulary,
    load_tokenizer,
    tokenizer_digest,
)
from latentsmith.errors import UserError
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "stabilityai/stable-diffusion-xl-base-1.0"

TOWERS, TOKENIZERS = ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2")
"""Their folders in a pipeline."""

INDEX_FILE, ZEROS = "model_index.json", "force_zeros_for_empty_prompt"


@TEXT_ENCODERS.register("sdxl_text", help="SDXL's two CLIP text towers; hub id or folder")
@schema
class SDXLTextConfig(TextEncoderConfig):
    """What Stable Diffusion XL's U-Net is told of a text: both towers' tokens, and one vector."""

    kind: Literal["sdxl_text"] = "sdxl_text"
    source: str = EXAMPLE
    """Hub id or folder of a pipeline: with text_encoder, text_encoder_2, tokenizer, tokenizer_2."""
    length: Annotated[int, Field(ge=3)] | None = None
    """Tokens read of a text, begin and end included; left out: the towers' own (77)."""
    zeros_for_empty: bool | None = None
    """Whether the empty prompt is zeros, as the published SDXL wants it, instead of what the
    towers make of it. Left out: what the pipeline says (force_zeros_for_empty_prompt in its
    model_index.json); true where it says nothing, as in diffusers."""
    output: TextKind = "sequence"
    """``sequence``: every position's vector, also of the padding, and beside it the whole text's
    (stored as ``pooled``); ``embedding``: the latter alone."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source, tower) for tower in TOWERS]

    def build(self) -> "SDXLText":
        """Load both towers. Raises UserError when they cannot be had or do not fit."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        classes = (CLIPTextModel, CLIPTextModelWithProjection)
        models = [_tower(self.source, *which) for which in zip(TOWERS, classes, strict=True)]
        most = min(model.config.max_position_embeddings for model in models)
        check_length(self.length or most, most, self.source)
        tokenizers = [
            load_tokenizer(self.source, example=EXAMPLE, subfolder=place) for place in TOKENIZERS
        ]
        zeros = self.zeros_for_empty
        zeros = zeros_for_empty(self.source) if zeros is None else zeros
        return SDXLText(models, tokenizers, self.length or most, self.output, zeros=zeros)


class SDXLText(TextEncoder):
    """Frozen pair of CLIP text towers; see `SDXLTextConfig`.

    Args:
        models: ``CLIPTextModel`` and ``CLIPTextModelWithProjection``.
        tokenizers: of each.
        zeros: whether the empty prompt's outputs are zeros.
    """

    name = "sdxl_text"
    pools = True

    def __init__(
        self,
        models: Sequence[Any],
        tokenizers: Sequence[Any],
        length: int,
        output: TextKind,
        *,
        zeros: bool,
    ):
        super().__init__(models[0], tokenizers[0], length, output)
        check_vocabulary(models[1], tokenizers[1], self.name)
        self.second, self.second_tokenizer = models[1].requires_grad_(False).eval(), tokenizers[1]
        self.zeros = zeros
        self.width = sum(model.config.hidden_size for model in models)
        self.dim = models[1].config.projection_dim

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → embedding [B, P], sequence [B, L, E₁ + E₂]; zeros for the empty prompt where
        the pipeline wants that. A position counts as a token where either tower has one."""
        ids, cut = self.tokens(texts, full=True)
        others, also_cut = self.tokens(texts, full=True, tokenizer=self.second_tokenizer)
        first = self.model(input_ids=ids["input_ids"], output_hidden_states=True)
        second = self.second(input_ids=others["input_ids"], output_hidden_states=True)
        sequence = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1).float()
        pooled = second.text_embeds.float()
        if self.zeros:
            empty = torch.tensor([not text for text in texts], device=pooled.device)
            sequence = sequence.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        mask = ids["attention_mask"].bool() | others["attention_mask"].bool()
        return TextOutput(pooled, sequence, mask, cut | also_cut)

    def digest(self) -> str:
        """Hex digest of both towers' weights."""
        return state_digest(self.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """See `TextEncoder.fingerprint`; with what each tokenizer pads with, which SDXL reads."""
        both = (self.tokenizer, self.second_tokenizer)
        return super().fingerprint() | {
            "tokenizer": json_digest([tokenizer_digest(t) for t in both]),
            "padding": [t.pad_token_id for t in both],
            "zeros": self.zeros,
        }


def _tower(source: str, place: str, model_class: Any) -> Any:
    config = load_config(source, kinds=("clip_text_model",), example=EXAMPLE, subfolder=place)
    return load_model(model_class, source, example=EXAMPLE, config=config, subfolder=place)


def zeros_for_empty(source: str) -> bool:
    """Whether a pipeline takes zeros for the empty prompt: as its ``model_index.json`` says; true,
    diffusers' own default, where it does not or there is none.

    Raises:
        UserError: the file is damaged.
    """
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(source, INDEX_FILE)
    except OSError:
        return True
    try:
        return bool(json.loads(Path(str(file)).read_text()).get(ZEROS, True))
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{INDEX_FILE} of {source!r} is damaged ({error}): get the pipeline again, or set "
            "text_encoder.zeros_for_empty"
        ) from error
