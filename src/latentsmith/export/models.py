"""Networks that diffusers has not, as diffusers models that carry their own code.

``AutoModel.from_pretrained(folder, trust_remote_code=True)`` of diffusers reads each where
latentsmith is not installed. The classes are in `latentsmith.export.shipped`, written out by
`latentsmith.export.inline`.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.field.flow import FieldFlow
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.backbones.text_inverter import TextInverter
from latentsmith.data.text.normalizer import VectorNormalizer
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.data.text.tokens.wordpiece import WordPieceSplitter
from latentsmith.errors import UserError
from latentsmith.export.inline import standalone
from latentsmith.export.semantic import check_semantic, semantic_model
from latentsmith.sampling.text_latent.translator import Translator

SHIPPED = "latentsmith.export.shipped"
ONE_FILE = "1TB"
SPLITTER = "tokenizer"

Component = tuple[str, str]
"""(library, or the shipped file in the component's folder; class), as in ``model_index.json``."""


def ship(module: str, folder: Path) -> str:
    """Write a module of `latentsmith.export.shipped` that stands alone; its name."""
    (folder / f"{module}.py").write_text(standalone(f"{SHIPPED}.{module}"), "utf-8")
    return module


@cache
def _text(module: str) -> str:
    return standalone(f"{SHIPPED}.{module}")


def write_model(model: Any, module: str, folder: Path) -> Component:
    """Write a model of a shipped class with the class's code."""
    model.save_pretrained(folder, max_shard_size=ONE_FILE)
    return carry_code(folder, module, type(model).__name__)


def carry_code(folder: Path, module: str, name: str) -> Component:
    """Put the code of class ``name`` beside weights that are there, and say so in their config."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModel": f"{module}.{name}"}}
    path.write_text(json.dumps(config, indent=2) + "\n")
    return ship(module, folder), name


def check_autoencoder(autoencoder: Autoencoder) -> None:
    """Raises UserError for one that cannot go where latentsmith is not, naming why."""
    if isinstance(autoencoder, SemanticAutoencoder):
        check_semantic(autoencoder)
    elif not isinstance(autoencoder, KLAutoencoder | FieldAutoencoder):
        raise UserError(
            f"an autoencoder of kind {autoencoder.kind} cannot be exported: its saved folder is "
            "one to copy as it is"
        )


def write_any_autoencoder(autoencoder: Autoencoder, folder: Path) -> Component:
    """Write an autoencoder of any family, with the scale of its latents in its config.

    Raises:
        UserError: a part of it that no export has, or its latents were not measured.
    """
    check_autoencoder(autoencoder)
    if isinstance(autoencoder, SemanticAutoencoder):
        return write_model(semantic_model(autoencoder), "modeling_semantic", folder)
    if isinstance(autoencoder, FieldAutoencoder):
        found = write_model(field_model(autoencoder), "modeling_field", folder)
        autoencoder.require_normalizer().save(folder)
        return found
    autoencoder.save_pretrained(folder)
    return "diffusers", "AutoencoderKL"


def field_model(autoencoder: FieldAutoencoder) -> Any:
    """The shipped class with the autoencoder's weights."""
    from latentsmith.export.shipped.modeling_field import LatentsmithFieldAutoencoder

    model: Any = LatentsmithFieldAutoencoder(
        settings=asdict(autoencoder.config),
        in_channels=autoencoder.channels,
        **autoencoder.require_normalizer().diffusers_config(),
    )
    model.load_state_dict(autoencoder.state_dict())
    return model.eval()


def flow_model(flow: FieldFlow) -> Any:
    """The shipped class with the flow's weights."""
    from latentsmith.export.shipped.modeling_field_flow import LatentsmithFieldFlow

    model: Any = LatentsmithFieldFlow(settings=asdict(flow.config), like=asdict(flow.like))
    model.load_state_dict(flow.state_dict())
    return model.eval()


def text_latent_model(translator: Translator) -> Any:
    """The shipped class with the weights of a model of texts and latents, and its scale."""
    from latentsmith.export.shipped.modeling_text_latent import LatentsmithTextLatent

    inner, network = translator.model, translator.model.network
    model: Any = LatentsmithTextLatent(
        settings=asdict(network.config),
        length=network.length,
        latent_shape=list(network.latent_shape),
        process=asdict(inner.process),
        predicts=inner.predicts,
        t_max=inner.t_max,
        tokens=_tokens(translator.tokenizer),
        scale=_scale(translator.normalizer),
    )
    model.network.load_state_dict(network.state_dict())
    _fill(model.scaler, translator.normalizer)
    return model.eval()


def inverter_model(network: TextInverter, like: Translator | None) -> Any:
    """The shipped class with a decoder's weights; ``like`` has its tokens and latents' scale."""
    from latentsmith.export.shipped.modeling_text_inverter import LatentsmithTextInverter

    more = {}
    if like is not None:
        more = {"tokens": _tokens(like.tokenizer), "scale": _scale(like.normalizer)}
    model: Any = LatentsmithTextInverter(
        settings=asdict(network.config),
        vocabulary=network.vocabulary,
        length=network.length,
        latent_shape=list(network.latent_shape),
        **more,
    )
    model.network.load_state_dict(network.state_dict())
    if like is not None:
        _fill(model.scaler, like.normalizer)
    return model.eval()


def write_splitter(tokenizer: Tokenizer, folder: Path) -> bool:
    """Write what splits texts into word pieces; False where words are split by a rule."""
    splitter = tokenizer.splitter
    if not isinstance(splitter, WordPieceSplitter):
        return False
    splitter.tokenizer.save_pretrained(folder / SPLITTER)
    return True


def _tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    kind = tokenizer.config.kind
    if kind not in ("words", "wordpiece"):
        raise UserError(
            f"tokens={kind} cannot be exported: known are words and wordpiece. The saved model is "
            "a folder to copy as it is"
        )
    pieces = tokenizer.names[3:-1]
    fills = tokenizer.policy_fills
    return {"kind": kind, "pieces": pieces, "length": tokenizer.length, "fills": fills}


def _scale(normalizer: VectorNormalizer) -> dict[str, Any]:
    turned = normalizer.basis is not None
    return {
        "raw": len(normalizer.mean), "width": normalizer.dim, "basis": turned,
        "unit": normalizer.unit,
    }  # fmt: skip


def _fill(scaler: Any, normalizer: VectorNormalizer) -> None:
    scaler.mean.copy_(normalizer.mean)
    scaler.deviation.copy_(normalizer.scale)
    if normalizer.basis is not None:
        scaler.basis.copy_(normalizer.basis)
