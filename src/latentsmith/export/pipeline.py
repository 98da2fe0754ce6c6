"""A generator from texts as a diffusers pipeline that carries its own code.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` reads it where latentsmith is
not installed. Networks that diffusers and transformers have are theirs; the others are written out
of this package (`latentsmith.export.inline`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsmith.backbones.text_dit import TextDiT
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.paths import PathConfig
from latentsmith.diffusion.scheduler import PREDICTS, save_scheduler
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.errors import UserError
from latentsmith.export.models import (
    ONE_FILE,
    Component,
    check_autoencoder,
    ship,
    write_any_autoencoder,
)
from latentsmith.export.part import Part
from latentsmith.export.semantic import INSTEAD
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.generator_info import FILE_NAME
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.prompts import text_encoder_of
from latentsmith.sampling.samplers import SamplerConfig

INDEX, PIPELINE = "model_index.json", "pipeline"
PIPELINE_PARTS = f"{INDEX}, {PIPELINE}.py"
AUTOENCODER = "autoencoder"
TEXTS = ("minilm", "t5", "clip_text")


@dataclass(frozen=True)
class Sampling:
    """How the pipeline is used in the card's code, and what its flow scheduler does by itself.

    Attributes:
        steps: of the sampler.
        shift: of a flow's times towards noise.
        text: scale of guidance by the prompt.
        edit_text, edit_image: scales of guidance of edits.
    """

    steps: int = 50
    shift: float = 1.0
    text: float = 7.5
    edit_text: float = 7.5
    edit_image: float = 1.5

    @classmethod
    def of(
        cls, sampler: SamplerConfig, guidance: GuidanceConfig, edits: GuidanceConfig
    ) -> "Sampling":
        """As a run's settings say, as far as they can: another solver, or guidance that is more
        than a scale, is not the pipeline's."""
        return cls(
            getattr(sampler, "steps", cls.steps),
            getattr(sampler, "shift", cls.shift),
            getattr(guidance, "scale", 1.0),
            getattr(edits, "text", 1.0),
            getattr(edits, "image", 1.0),
        )


def write_pipeline(
    generator: LatentGenerator, folder: Path, sampling: Sampling | None = None
) -> list[Part]:
    """Write the pipeline into ``folder``.

    Args:
        generator: of backbone text_dit, with its autoencoder.
        sampling: what the card shows. None: usual numbers.

    Raises:
        UserError: a setting that the pipeline has no answer to, named; no text encoder to be had,
            no empty prompt.
    """
    sampling = sampling or Sampling()
    network, autoencoder = generator.backbone, generator.autoencoder
    assert isinstance(network, TextDiT) and autoencoder is not None
    check_path(generator.info.path, network.predicts)
    network.nothing(1, generator.device)  # refuses where none was kept
    check_autoencoder(autoencoder)
    texts = _text_encoder(generator)

    index: dict[str, Any] = {"_class_name": [PIPELINE, "TextDiTPipeline"]}
    index |= version()
    index["transformer"] = _write_transformer(network, folder / "transformer")
    index[AUTOENCODER] = write_any_autoencoder(autoencoder, folder / AUTOENCODER)
    index |= _write_texts(texts, folder)
    index["scheduler"] = write_scheduler(
        generator.info.path, network.predicts, sampling.shift, folder / "scheduler"
    )
    edits = network.edits and generator.info.training.get("edits") is not False
    index |= {
        "resolution": generator.resolution,
        "text_length": texts.length,
        "text_padded": texts.name == "clip_text",
        "edits": edits,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    ship(PIPELINE, folder)
    return _parts(index, texts.name, sampling)


# What it takes ------------------------------------------------------------------------------------


def check_path(path: PathConfig, predicts: str) -> None:
    """Raises UserError where diffusers has no scheduler for it."""
    if isinstance(path, LinearPathConfig):
        if predicts != "velocity":
            raise UserError(
                f"backbone.predicts={predicts} on path=linear cannot be exported as a pipeline: "
                f"diffusers' flow scheduler takes velocity. {INSTEAD}"
            )
    elif not isinstance(path, VPPathConfig):
        raise UserError(
            f"path={path.kind} cannot be exported as a pipeline: diffusers has schedulers for "
            f"path=linear and path=vp. {INSTEAD}"
        )
    elif predicts not in PREDICTS.values():
        raise UserError(
            f"backbone.predicts={predicts} on path=vp cannot be exported as a pipeline: diffusers' "
            f"schedulers take {', '.join(PREDICTS.values())}. {INSTEAD}"
        )


def _text_encoder(generator: LatentGenerator) -> TextEncoder:
    kept = generator.info.text_encoder
    if kept is None:
        raise UserError(
            f"this generator's {FILE_NAME} does not say by which text encoder it reads prompts (it "
            "was saved by an older version): a pipeline needs one. Train and save it again"
        )
    kind = kept["settings"]["kind"]
    if kind not in TEXTS:
        raise UserError(
            f"text_encoder={kind} cannot be exported as a pipeline: known are {', '.join(TEXTS)}. "
            f"{INSTEAD}"
        )
    return text_encoder_of(kept)


# What it writes -----------------------------------------------------------------------------------


def transformer_settings(network: TextDiT) -> dict[str, Any]:
    """Arguments of the shipped network's class."""
    config, (channels, rows, columns) = network.config, network.latent_shape
    width, depth, heads = config.shape()
    shape = {"channels": channels, "rows": rows, "columns": columns}
    shape |= {"width": width, "depth": depth, "heads": heads}
    return shape | {name: getattr(config, name) for name in TAKEN}


TAKEN = (
    "patch", "mlp", "mlp_ratio", "norm", "qk_norm", "position", "time_scale", "time_shift",
    "time_spacing", "text_width", "text_length", "predicts",
)  # fmt: skip
"""Settings of a text_dit that its shipped class has under the same name; beside these its size, and
what only trainings read."""


def transformer_model(network: TextDiT) -> Any:
    """The shipped class with the network's weights."""
    from latentsmith.export.shipped.modeling_text_dit import TextDiTModel

    model: Any = TextDiTModel(**transformer_settings(network))
    model.load_state_dict(network.state_dict())
    return model.eval()


def _write_transformer(network: TextDiT, folder: Path) -> Component:
    transformer_model(network).save_pretrained(folder, max_shard_size=ONE_FILE)
    return ship("modeling_text_dit", folder), "TextDiTModel"


def _write_texts(encoder: TextEncoder, folder: Path) -> dict[str, Component]:
    written = {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer}
    for name, value in written.items():
        value.save_pretrained(folder / name)
    return {name: ("transformers", type(value).__name__) for name, value in written.items()}


def write_scheduler(
    path: PathConfig, predicts: Parametrization, shift: float, folder: Path
) -> Component:
    """Write diffusers' scheduler of a path that `check_path` takes."""
    if isinstance(path, VPPathConfig):
        save_scheduler(path, predicts, folder)
        return "diffusers", "DDIMScheduler"
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    FlowMatchEulerDiscreteScheduler(shift=shift).save_pretrained(str(folder))
    return "diffusers", "FlowMatchEulerDiscreteScheduler"


def version() -> dict[str, str]:
    """What ``model_index.json`` says of diffusers."""
    import diffusers

    return {"_diffusers_version": diffusers.__version__}


# What the card says -------------------------------------------------------------------------------

LOAD = """\
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
"""
NOTE = (
    "Needs torch, diffusers and transformers. `trust_remote_code=True`: classes that those do not "
    "have are files of this folder; read them first. `latents=` gives the starting noise."
)


def _parts(index: dict[str, Any], texts: str, sampling: Sampling) -> list[Part]:
    code = LOAD + (
        f'images = pipe(["a red circle"], num_inference_steps={sampling.steps}, '
        f"guidance_scale={sampling.text:g}).images\n"
    )
    if index["edits"]:
        code += (
            'edited = pipe(["make it blue"], image=images[0], '
            f"num_inference_steps={sampling.steps},\n"
            f"              guidance_scale={sampling.edit_text:g}, "
            f"image_guidance_scale={sampling.edit_image:g}).images\n"
        )
    parts = [Part(PIPELINE_PARTS, "the pipeline, diffusers' layout", code, NOTE)]
    whats = {
        "transformer": "the network",
        AUTOENCODER: "the autoencoder, with mean and deviation of its latents",
        "text_encoder": f"what reads prompts (`{texts}`)",
        "tokenizer": "its tokens",
        "scheduler": "the path it was trained on",
    }
    for name, what in whats.items():
        library, made = index[name]
        where = (
            f"of {library}" if library in ("diffusers", "transformers") else "its code beside it"
        )
        parts.append(Part(f"{name}/", f"{what}: `{made}`, {where}"))
    return parts
