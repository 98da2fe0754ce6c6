"""An autoencoder as two ONNX graphs, compared with itself before they are kept.

    encoder.onnx    images in [0, 1] → mean and logvar of raw latents
    decoder.onnx    raw latents → images, about [0, 1]

Of fields the decoder alone, from raw latents and coordinates to values in [-1, 1]: their encoder
sorts points, which lie anywhere, along curves.

Each is run by onnxruntime on several sizes beside the network it was made of; one that differs by
more than `TOLERANCE` of its largest value is not written. Made with torch's exporter of
``torch.export`` programs, from the extra ``latentsmith[onnx]``.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.backbones.blocks.curves import CURVES
from latentsmith.backbones.mixers import Points
from latentsmith.errors import UserError
from latentsmith.export.part import Part
from latentsmith.utils.files import write_json

log = logging.getLogger(__name__)

FOLDER, ABOUT = "onnx", "autoencoder.json"
TOLERANCE = 1e-4
"""Largest difference that is left, as a share of the largest value of the network's own answer."""
LARGEST = 1_500_000_000
"""Bytes of weights above which they lie beside the graph: a protobuf ends at 2 GB."""
SORTING = ("scan", "joint")
"""Decoders of fields that sort what they are asked."""
NEEDS = (
    "ONNX graphs need the packages onnx, onnxscript and onnxruntime, and {lacking} is not "
    "installed: pip install 'latentsmith[onnx]'"
)


@dataclass
class Graph:
    """One direction of an autoencoder.

    Attributes:
        name: encoder or decoder.
        module: what it computes.
        sizes: inputs by name, of several sizes; it is traced with the first.
        free: input → axis → what the axis counts, of those that may have any size.
        outputs: their names.
    """

    name: str
    module: nn.Module
    sizes: list[dict[str, Tensor]]
    free: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


class Encoder(nn.Module):
    """Images [N, C, H, W] in [0, 1] → mean and log-variance of raw latents [N, z, h, w]."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        seen = self.autoencoder.encode(images)
        return seen.mean, seen.logvar


class Decoder(nn.Module):
    """Raw latents [N, z, h, w] → images [N, C, H, W]."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        """See the class."""
        return self.autoencoder.decode(latents)


class FieldDecoder(nn.Module):
    """Raw latents [N, z, h, w], coordinates [M, d] → values [N, M, C]. The tokens do not move:
    their orders along curves are found before, since ONNX sorts nothing stably."""

    def __init__(self, autoencoder: FieldAutoencoder):
        super().__init__()
        self.decoder, self.anchors = autoencoder.decoder, _known(autoencoder.anchors().coordinates)

    def forward(self, latents: Tensor, coordinates: Tensor) -> Tensor:
        """See the class."""
        tokens = latents.flatten(2).mT
        context = self.decoder.context(tokens, self.anchors)
        return self.decoder(context, self.anchors, Points(coordinates[None]), raw=tokens)


def _known(coordinates: Tensor) -> Points:
    """Points with their orders along all curves."""
    points = Points(coordinates)
    curves: Any = CURVES if coordinates.shape[-1] > 1 else ()
    for curve in curves:
        for backward in (False, True):
            points.along(curve, backward=backward)
        points.weights(curve)
    return points


def write_onnx(autoencoder: Autoencoder, folder: Path) -> Part:
    """Write ``folder/onnx``: the graphs, and what goes in and out of them as JSON.

    Raises:
        UserError: a package is missing, a part of the autoencoder has no ONNX operator, or a graph
            answers otherwise than the autoencoder.
    """
    _check_packages()
    _check_kind(autoencoder)
    place = folder / FOLDER
    place.mkdir()
    autoencoder.eval()
    off = {}
    for graph in graphs_of(autoencoder):
        file = place / f"{graph.name}.onnx"
        _convert(graph, file, autoencoder)
        off[graph.name] = _compare(graph, file)
        log.info("%s: differs from torch by at most %.2g", file.name, off[graph.name])
    write_json(place / ABOUT, _about(autoencoder, off))
    return _part(autoencoder, off)


def graphs_of(autoencoder: Autoencoder) -> list[Graph]:
    """Both directions (of fields the second), with inputs of the sizes they take."""
    if isinstance(autoencoder, FieldAutoencoder):
        return [_of_fields(autoencoder)]
    rng, f = torch.Generator().manual_seed(0), autoencoder.factor
    sizes, free = [(2, 4, 6), (1, 2, 2), (3, 8, 4)], {0: "batch", 2: "height", 3: "width"}
    if isinstance(autoencoder, SemanticAutoencoder):
        sizes, free = [(n, *autoencoder.grid) for n in (2, 1, 3)], {0: "batch"}
    images, latents = [], []
    for n, rows, columns in sizes:
        shape = n, autoencoder.channels, rows * f, columns * f
        images.append({"images": torch.rand(shape, generator=rng)})
        shape = n, autoencoder.latent_channels, rows, columns
        latents.append({"latents": torch.randn(shape, generator=rng)})
    there = Graph("encoder", Encoder(autoencoder), images, {"images": free}, ("mean", "logvar"))
    back = Graph("decoder", Decoder(autoencoder), latents, {"latents": free}, ("images",))
    return [there, back]


def _of_fields(autoencoder: FieldAutoencoder) -> Graph:
    rng, config = torch.Generator().manual_seed(0), autoencoder.config
    sizes = []
    for count, queries in ((2, 36), (1, 9), (3, 81)):
        tokens = torch.randn(count, config.latent.tokens, config.latent.channels, generator=rng)
        latents = tokens.mT.unflatten(2, autoencoder.token_grid)
        # anywhere: of a lattice's points some are equally far from two tokens, and either is right
        where = 2 * torch.rand(queries, config.dims, generator=rng) - 1
        sizes.append({"latents": latents, "coordinates": where})
    free = {"latents": {0: "batch"}, "coordinates": {0: "queries"}}
    return Graph("decoder", FieldDecoder(autoencoder), sizes, free, ("values",))


def _check_packages() -> None:
    import importlib.util

    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(NEEDS.format(lacking=name))


def _check_kind(autoencoder: Autoencoder) -> None:
    kind = autoencoder.config.decoder.kind if isinstance(autoencoder, FieldAutoencoder) else ""
    if kind in SORTING:
        raise UserError(
            f"decoder={kind} scans queries in their order along a curve, and ONNX has no stable "
            "sort: leave --onnx out (graphs are made of decoders cross, local and pointwise)"
        )


@torch.no_grad()
def _convert(graph: Graph, file: Path, autoencoder: Autoencoder) -> None:
    """Raises UserError for a network that has no such graph."""
    from torch.export import Dim

    first = graph.sizes[0]
    free = {name: dict.fromkeys(graph.free[name], Dim.AUTO) for name in first}
    weights = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    try:
        with _quiet():
            program = torch.export.export(
                graph.module.eval(), (), dict(first), dynamic_shapes=free, strict=False
            )
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=list(first),
                output_names=list(graph.outputs), dynamic_shapes=graph.free, optimize=True,
                custom_translation_table=_own_operators(),
            )  # fmt: skip
        assert made is not None
        made.save(file, external_data=weights > LARGEST)
    except Exception as error:  # of whatever an operator's conversion raises
        raise UserError(
            f"the {graph.name} of this autoencoder ({_kind(autoencoder)}) cannot be written as "
            f"ONNX: {_reason(error)}. Leave --onnx out: the rest of the export needs none"
        ) from error


def _own_operators() -> dict[Any, Any]:
    """How operators are written that torch's exporter does not know."""
    import onnxscript

    op: Any = onnxscript.opset18

    def distances(a: Any, b: Any, p: float, mode: Any = None) -> Any:
        before, after = op.Constant(value_ints=[-3]), op.Constant(value_ints=[-2])
        apart = op.Sub(op.Unsqueeze(a, after), op.Unsqueeze(b, before))
        return op.ReduceL2(apart, op.Constant(value_ints=[-1]), keepdims=0)

    return {torch.ops.aten._cdist_forward.default: distances}


def _kind(autoencoder: Autoencoder) -> str:
    if isinstance(autoencoder, FieldAutoencoder):
        config = autoencoder.config
        return f"decoder={config.decoder.kind}, mixer={config.mixer.kind}"
    return autoencoder.kind


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".")[:200] if lines else type(error).__name__


@torch.no_grad()
def _compare(graph: Graph, file: Path) -> float:
    """The largest difference on inputs of all sizes. Raises UserError above `TOLERANCE`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for given in graph.sizes:
        wanted = graph.module(**given)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        got = session.run(list(graph.outputs), {k: v.numpy() for k, v in given.items()})
        for name, one, other in zip(graph.outputs, wanted, got, strict=True):
            shape, off = list(one.shape), torch.tensor(0.0)
            answer = torch.from_numpy(other)
            if list(answer.shape) == shape:
                off = (answer - one).abs().max() / one.abs().max().clamp_min(1)
            if list(answer.shape) != shape or not float(off) <= TOLERANCE:
                raise UserError(
                    f"{file.name} is not kept: its {name} of shape {list(answer.shape)} differ "
                    f"from the autoencoder's, {shape}, by {float(off):.2g} of the largest value, "
                    f"and {TOLERANCE:g} is allowed"
                )
            worst = max(worst, float((answer - one).abs().max()))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that are not there, and of tracing."""
    talker = logging.getLogger("torch.onnx")
    before = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(before)


# What the JSON and the card say -------------------------------------------------------------------


def _about(autoencoder: Autoencoder, off: dict[str, float]) -> dict[str, Any]:
    """Shapes (numbers, or what an axis counts), ranges, scale."""
    latents: list[Any] = ["batch", autoencoder.latent_channels, "height / factor", "width / factor"]
    images: list[Any] = ["batch", autoencoder.channels, "height", "width"]
    about: dict[str, Any] = {"factor": autoencoder.factor}
    if isinstance(autoencoder, FieldAutoencoder):
        latents[2:] = autoencoder.token_grid
        coordinates = {"shape": ["queries", autoencoder.config.dims], "range": [-1, 1]}
        values = {"shape": ["batch", "queries", autoencoder.channels], "range": [-1, 1]}
        about["decoder"] = {
            "file": "decoder.onnx",
            "takes": {"latents": {"shape": latents}, "coordinates": coordinates},
            "gives": {"values": values},
        }
    else:
        if isinstance(autoencoder, SemanticAutoencoder):
            latents[2:] = autoencoder.grid
            images[2:] = (side * autoencoder.factor for side in autoencoder.grid)
        pictures = {"images": {"shape": images, "range": [0, 1]}}
        gaussian = {name: {"shape": latents} for name in ("mean", "logvar")}
        about["encoder"] = {"file": "encoder.onnx", "takes": pictures, "gives": gaussian}
        raw = {"latents": {"shape": latents}}
        about["decoder"] = {"file": "decoder.onnx", "takes": raw, "gives": pictures}
    return about | {
        "latents": "raw; a network sees (latents - latents_mean) * scaling_factor / latents_std",
        **autoencoder.require_normalizer().diffusers_config(),
        "differs_from_torch_by": off,
    }


CODE = """\
import json
from pathlib import Path

import onnxruntime

about = json.loads(Path("onnx/autoencoder.json").read_text())
session = lambda name: onnxruntime.InferenceSession(f"onnx/{name}.onnx")
"""
USE = """\
# float32 arrays: images [N, C, H, W] in [0, 1] → raw latents → images
to_latents = lambda images: session("encoder").run(None, {"images": images})  # mean, logvar
to_images = lambda latents: session("decoder").run(None, {"latents": latents})[0]
"""
USE_FIELD = """\
# float32 arrays: raw latents [N, z, h, w], coordinates [M, d] in [-1, 1] → values [N, M, C]
to_values = lambda latents, coordinates: session("decoder").run(
    None, {"latents": latents, "coordinates": coordinates}
)[0]
"""


def _part(autoencoder: Autoencoder, off: dict[str, float]) -> Part:
    said = ", ".join(f"{name} {most:.1g}" for name, most in off.items())
    what = f"the autoencoder as ONNX graphs; onnxruntime differs from torch by at most {said}"
    use = USE_FIELD if isinstance(autoencoder, FieldAutoencoder) else USE
    note = f"Shapes, ranges and the latents' scale are in `{FOLDER}/{ABOUT}`."
    return Part(f"{FOLDER}/", what, CODE + use, note)
