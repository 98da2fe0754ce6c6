"""What is no generator of images, in an export of its own: autoencoders, flows of fields, models
of texts and their latents."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import latentsmith
from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.field.flow import FieldFlow
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.backbones.text_inverter import TextInverter
from latentsmith.export.card import Told, plain
from latentsmith.export.class_pipeline import TRUST
from latentsmith.export.models import (
    SPLITTER,
    flow_model,
    inverter_model,
    text_latent_model,
    write_any_autoencoder,
    write_model,
    write_splitter,
)
from latentsmith.export.part import Part
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.utils.digest import state_digest

Alone = Autoencoder | FieldFlow | Translator | TextInverter

SCALE = """\
mean, std = (torch.tensor(vae.config[name]) for name in ("latents_mean", "latents_std"))
mean, std = mean[:, None, None], std[:, None, None] / vae.config.scaling_factor
encode = lambda x: (vae.encode(2 * x - 1).latent_dist.mode() - mean) / std
decode = lambda z: (vae.decode(z * std + mean).sample + 1) / 2
"""
CODERS = (
    "`encode` takes images [N, C, H, W] in [0, 1] to normalized latents, `decode` brings them back."
)
OPEN_KL = """\
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained(".").eval()
"""
OPEN_OWN = """\
import torch
from diffusers import AutoModel

{name} = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
"""
FIELD = (
    " `vae.encode_points(coordinates, values)` takes values [N, P, C] in [-1, 1] at coordinates "
    "[N, P, d] in [-1, 1] to raw latents, `vae.decode_at(latents, coordinates)` gives values "
    "anywhere."
)
FLOW = {
    "code": "`flow.draw(latents, None, coordinates)` draws values [N, M, C] at coordinates [M, d] "
    "of fields with such raw latents [N, z, h, w], those of the autoencoder it was trained with.",
    "inputs": "`flow.draw(values, where, coordinates)` draws values [N, M, C] at coordinates "
    "[M, d] of fields that have values [N, P, C] at `where` [N, P, d].",
}
SPLIT = f"""\
from transformers import AutoTokenizer

model.splitter = AutoTokenizer.from_pretrained("{SPLITTER}")
"""
TRANSLATES = (
    "`model.encode(texts)` gives raw latents [N, K, D], `model.write(latents)` texts of them; "
    "`generator=` seeds both."
)
WRITES = "`model.{call}` gives {what} of latents [N, …]."


def write_alone(what: Alone, folder: Path, *, like: Translator | None = None) -> list[Part]:
    """Write weights, config and, of classes that diffusers has not, their code into ``folder``.

    Args:
        like: of a decoder of texts, the model whose tokens it writes.

    Raises:
        UserError: a part of it that no export has.
    """
    if isinstance(what, Autoencoder):
        return [_write_autoencoder(what, folder)]
    if isinstance(what, FieldFlow):
        write_model(flow_model(what), "modeling_field_flow", folder)
        note = f"{TRUST} {FLOW[what.config.told]}"
        return [_own_part("a flow of the values of fields", "flow", note)]
    if isinstance(what, Translator):
        write_model(text_latent_model(what), "modeling_text_latent", folder)
        part = "a network over texts and their latents, with the latents' scale"
        return _with_splitter(what, folder, part, TRANSLATES)
    write_model(inverter_model(what, like), "modeling_text_inverter", folder)
    part = f"a decoder of texts, {what.config.order}"
    if like is None:
        note = WRITES.format(call="generate(latents)", what="token numbers")
        return [_own_part(part, "model", f"{TRUST} {note} Latents are normalized ones.")]
    note = WRITES.format(call="write(latents)", what="texts")
    return _with_splitter(like, folder, part, f"{note} Latents are raw ones.")


FILES = "config.json, diffusion_pytorch_model.safetensors"


def _write_autoencoder(autoencoder: Autoencoder, folder: Path) -> Part:
    library, kind = write_any_autoencoder(autoencoder, folder)
    if isinstance(autoencoder, KLAutoencoder):
        return Part(FILES, f"autoencoder, diffusers' `{kind}`", OPEN_KL + SCALE, CODERS)
    note = f"{TRUST} {CODERS}{FIELD if isinstance(autoencoder, FieldAutoencoder) else ''}"
    what = f"autoencoder, `{kind}`, its code in `{library}.py`"
    return Part(FILES, what, OPEN_OWN.format(name="vae") + SCALE, note)


def _own_part(what: str, name: str, note: str, more: str = "") -> Part:
    return Part(FILES, f"{what}, its code beside it", OPEN_OWN.format(name=name) + more, note)


def _with_splitter(translator: Translator, folder: Path, what: str, note: str) -> list[Part]:
    pieces = write_splitter(translator.tokenizer, folder)
    parts = [_own_part(what, "model", f"{TRUST} {note}", SPLIT if pieces else "")]
    if pieces:
        parts.append(Part(f"{SPLITTER}/", "what splits texts into word pieces, of transformers"))
    return parts


# What the card says -------------------------------------------------------------------------------


def of_alone(what: Alone, facts: dict[str, Any]) -> Told:
    """What it is and was trained on.

    Args:
        facts: of its training, by name.
    """
    sentence, tags, digests = _described(what)
    made = [(key, plain(value)) for key, value in facts.items()]
    made += [(key, plain(value)) for key, value in _own_facts(what).items()]
    sentence = f"{sentence}; made with latentsmith {latentsmith.__version__}."
    return Told(sentence, "diffusers", tags, made=made, digests=digests)


def _described(what: Alone) -> tuple[str, list[str], list[tuple[str, str]]]:
    if isinstance(what, Autoencoder):
        digests = [
            ("all weights", what.digest()),
            ("those that decide latents", what.encoder_digest()),
        ]
        return _of_autoencoder(what), ["autoencoder", what.kind], digests
    if isinstance(what, FieldFlow):
        digests = [("all weights", state_digest(what.state_dict()))]
        return "A flow of the values of fields at points", ["field", "flow-matching"], digests
    if isinstance(what, Translator):
        digests = [("all weights", state_digest(what.model.network.state_dict()))]
        digests.append(("encoder of the latents", what.normalizer.encoder_digest))
        return "A network from texts to latents and back", ["text-latent"], digests
    digests = [("all weights", state_digest(what.state_dict()))]
    return "A decoder of texts from their latents", ["text-latent", "text-inversion"], digests


def _of_autoencoder(autoencoder: Autoencoder) -> str:
    if isinstance(autoencoder, SemanticAutoencoder):
        return f"An autoencoder around a vision encoder (`{autoencoder.config.encoder.kind}`)"
    if isinstance(autoencoder, FieldAutoencoder):
        return f"An autoencoder of fields, decoder `{autoencoder.config.decoder.kind}`"
    return "An autoencoder of images, `AutoencoderKL`"


def _own_facts(what: Alone) -> dict[str, Any]:
    """What it says itself."""
    if isinstance(what, Autoencoder):
        normalizer = what.require_normalizer()
        facts = {"latent channels": what.latent_channels, "pixels per latent": what.factor}
        return facts | {"scaling factor": f"{normalizer.scaling_factor:.6g}"}
    if isinstance(what, FieldFlow):
        return {
            "told": what.config.told,
            "path": asdict(what.config.path),
            "decoder": what.config.decoder.kind,
        }
    if isinstance(what, Translator):
        made_by = what.made_by.settings or {}
        return what.training | {"latents of": made_by.get("kind", "elsewhere")}
    return {"order": what.config.order, "depth": what.config.depth, "width": what.config.width}
