"""Sentence encoders as the sentence-transformers library saves them, without that library.

``modules.json`` lists what is done: a transformer, pooling of its tokens, and perhaps unit length.
Those three are short; a model with further layers is refused, since its vectors would be others.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.encoders.hub import get_it, load_config, load_model
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
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "sentence-transformers/all-mpnet-base-v2"
MODELS = {
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "mpnet": "MPNetModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
}
"""Kinds of transformers, and their classes in the library of that name."""

Pooling = Literal["mean", "cls"]
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
"""What the library calls them."""


@TEXT_ENCODERS.register("sentence", help="any sentence-transformers model; hub id or folder")
@schema
class SentenceConfig(TextEncoderConfig):
    """A transformer, its tokens' mean or first token, and unit length where the model says so."""

    kind: Literal["sentence"] = "sentence"
    source: str = EXAMPLE
    """Hub id or folder with ``modules.json``, as ``intfloat/e5-base-v2``."""
    prefix: str = ""
    """Put before every text, as some models were trained (``query: `` for E5)."""
    length: Annotated[int, Field(ge=3)] = 128
    """Tokens read of a text, begin and end included; the rest is cut."""
    output: TextKind = "embedding"
    """``embedding``: one vector; ``sequence``: every token's, zero where there is none."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "SentenceEncoder":
        """Load the weights. Raises UserError when they cannot be had or do more than pooling."""
        import transformers

        pooling, unit = _modules(self.source)
        config = load_config(self.source, kinds=tuple(MODELS), example=EXAMPLE)
        most = config.max_position_embeddings
        if config.model_type in ("mpnet", "roberta", "xlm-roberta"):
            most -= config.pad_token_id + 1  # they count positions from the padding's number on
        check_length(self.length, most, self.source)
        model = load_model(
            getattr(transformers, MODELS[config.model_type]), self.source, example=EXAMPLE
        )
        tokenizer = load_tokenizer(self.source, example=EXAMPLE)
        return SentenceEncoder(model, tokenizer, self, pooling, unit)


def _modules(source: str) -> tuple[Pooling, bool]:
    """How tokens are pooled, and whether the vector gets length 1. Raises UserError."""
    types = [str(m["type"]).rpartition(".")[2] for m in _json(source, "modules.json")]
    if types[:2] != ["Transformer", "Pooling"] or types[2:] not in ([], ["Normalize"]):
        raise UserError(
            f"the sentence encoder {source!r} is made of {', '.join(types)}: only a transformer, "
            f"pooling and normalizing are known. {get_it(EXAMPLE)}"
        )
    told = _json(source, f"{_json(source, 'modules.json')[1]['path']}/config.json")
    on = [name for name, value in told.items() if name.startswith("pooling_mode") and value]
    pooling = POOLINGS.get(on[0]) if len(on) == 1 else None
    if pooling is None:
        raise UserError(
            f"the sentence encoder {source!r} pools by {', '.join(on)}: one of mean, cls"
        )
    return pooling, types[2:] == ["Normalize"]


def _json(source: str, name: str) -> Any:
    """A JSON file of a folder or hub id. Raises UserError when it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(source).expanduser()
        path = folder / name if folder.is_dir() else hf_hub_download(source, name)
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:  # the hub's errors are one or the other
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot read {name} of the sentence encoder {source!r}: {first}. {get_it(EXAMPLE)}"
        ) from error


class SentenceEncoder(TextEncoder):
    """Frozen sentence encoder; see `SentenceConfig`."""

    name = "sentence"

    def __init__(
        self, model: Any, tokenizer: Any, config: SentenceConfig, pooling: Pooling, unit: bool
    ):
        super().__init__(model, tokenizer, config.length, config.output)
        self.dim = self.width = model.config.hidden_size
        self.prefix, self.unit = config.prefix, unit
        self.pooling: Pooling = pooling

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → embedding [B, D], sequence [B, L, D] before pooling."""
        told = texts if isinstance(texts, str) else [self.prefix + text for text in texts]
        ids, cut = self.tokens(told, full=False)
        hidden: Tensor = self.model(**ids).last_hidden_state
        mask = ids["attention_mask"]
        pooled = mean_pool(hidden, mask) if self.pooling == "mean" else hidden[:, 0].float()
        pooled = F.normalize(pooled, dim=1) if self.unit else pooled
        sequence, seen = self.pad(hidden, mask)
        return TextOutput(pooled, sequence, seen, cut)

    def fingerprint(self) -> dict[str, object]:
        """See `TextEncoder.fingerprint`."""
        told = {"pooling": self.pooling, "unit": self.unit, "prefix": self.prefix}
        return super().fingerprint() | told
