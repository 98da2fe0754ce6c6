"""The model card: what a generator is, what it was trained on, how each part is loaded."""

import json
from pathlib import Path
from typing import Any

import yaml

import latentsmith
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.export.autoencoder import FOLDER
from latentsmith.export.measured import measured
from latentsmith.export.part import Part
from latentsmith.export.pipeline import AUTOENCODER, PIPELINE_PARTS
from latentsmith.reports.content import Report
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.utils.digest import state_digest

LICENCE = """\
## Licence

Not stated: fill in `license` above. The weights it started from and the images it was trained on
have licences too.
"""


def model_card(
    name: str, generator: LatentGenerator, parts: list[Part], report: Report | None = None
) -> str:
    """Markdown with YAML front matter, as model hubs read it; the licence is left to its author.

    Args:
        name: its title.
        parts: what the folder holds.
        report: whose measurements are shown; None: none are.
    """
    sections = [
        f"# {name}\n\n{_sentence(generator)}\n",
        _table("What is here", ("file", "what it is"), [(f"`{p.path}`", p.what) for p in parts]),
        _table("How it was made", ("", ""), _made(generator, parts)),
        _loading(parts),
        _pairing(generator),
    ]
    if report is not None and report.measurements:
        sections.append(measured(report))
    return "\n".join([_front(generator, parts), *sections, LICENCE])


def _front(generator: LatentGenerator, parts: list[Part]) -> str:
    network, tags = generator.backbone, ["latentsmith"]
    entries: dict[str, Any] = {"library_name": "latentsmith"}
    if isinstance(network, SDUNet):
        entries["library_name"] = "diffusers"
        tags += ["stable-diffusion", "text-to-image"]
        source = network.config.source
        if network.config.adapt == "lora":
            tags.append("lora")
        if network.config.adapt != "full" and not Path(source).exists():
            entries["base_model"] = source
    else:
        tags += [network.config.kind, "latent-diffusion"]
    if PIPELINE_PARTS in (part.path for part in parts):
        entries["library_name"] = "diffusers"
        tags.append("text-to-image")
    text = yaml.safe_dump(entries | {"tags": tags}, sort_keys=False)
    return f"---\n{text}# license: yours to state\n---\n"


def _sentence(generator: LatentGenerator) -> str:
    network, info = generator.backbone, generator.info
    kind = f"A generator of images in the latent space of an autoencoder (`{network.config.kind}`)"
    if isinstance(network, SDUNet):
        how = {"lora": "adapted by LoRA", "full": "trained whole", "none": "not trained"}
        kind = f"A Stable Diffusion U-Net, {how[network.config.adapt]}"
    told = f", of {len(info.classes)} classes" if info.classes else ""
    return f"{kind}{told}; made with latentsmith {latentsmith.__version__}."


def _made(generator: LatentGenerator, parts: list[Part]) -> list[tuple[str, str]]:
    network, info = generator.backbone, generator.info
    rows = [(key, _plain(value)) for key, value in info.training.items()]
    if isinstance(network, SDUNet) and network.config.adapt != "full":
        rows.append(("network it started from", f"`{network.config.source}`"))
    if info.classes:
        shown = ", ".join(info.classes[:10])
        rows.append(
            ("classes", f"{shown}, … ({len(info.classes)})" if info.classes[10:] else shown)
        )
    path = {k: v for k, v in info.to_json()["path"].items() if v is not None}
    rows += [
        ("path", _plain(path)),
        ("the network says", network.predicts),
        ("latents", " x ".join(map(str, network.latent_shape))),
        ("autoencoder", _autoencoder(generator, parts)),
    ]
    return [(key, text.replace("|", "\\|")) for key, text in rows]


def _autoencoder(generator: LatentGenerator, parts: list[Part]) -> str:
    network, paths = generator.backbone, [part.path for part in parts]
    for folder in (FOLDER, AUTOENCODER):
        if f"{folder}/" in paths:
            return f"`{folder}/`, here"
    assert isinstance(network, SDUNet)  # all others go with theirs
    return f"not here: that of `{network.config.source}`, if its digest is the one below"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _loading(parts: list[Part]) -> str:
    text = ["## How to load it\n", "Run in this folder, or give its path in the place of `.`.\n"]
    for part in parts:
        if part.code or part.note:
            text.append(f"### `{part.path}`\n")
            text += [f"{part.note}\n"] if part.note else []
            text += [f"```python\n{part.code}```\n"] if part.code else []
    return "\n".join(text)


def _pairing(generator: LatentGenerator) -> str:
    rows = {
        "autoencoder": "all its weights",
        "encoder": "its weights that made the latents",
        "normalizer": "scale of the latents",
        "latents": "the training's store of latents",
    }
    pairing = generator.info.pairing.to_json()
    digests = [(f"{name}: {what}", f"`{pairing[name]}`") for name, what in rows.items()]
    digests.append(("network", f"`{state_digest(generator.backbone.state_dict())}`"))
    if generator.aligner is not None:
        digests.append(("alignment heads", f"`{state_digest(generator.aligner.state_dict())}`"))
    table = _table("What belongs together", ("", "digest (xxh3-128)"), digests)
    return f"{table}\nWith another autoencoder the images are wrong but plausible.\n"


def _table(title: str, heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {a} | {b} |" for a, b in [heads, ("---", "---"), *rows]]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"
