"""Parts of field networks from plain settings."""

from typing import Any

from latentsmith.autoencoders.field.decoders.base import DecoderShape
from latentsmith.autoencoders.field.decoders.cross import CrossConfig
from latentsmith.autoencoders.field.decoders.joint import JointConfig
from latentsmith.autoencoders.field.decoders.local import LocalConfig
from latentsmith.autoencoders.field.decoders.pointwise import PointwiseConfig
from latentsmith.autoencoders.field.decoders.scan import ScanConfig
from latentsmith.autoencoders.field.features import FourierConfig
from latentsmith.backbones.mixers.attention import AttentionMixerConfig
from latentsmith.backbones.mixers.s6 import S6MixerConfig
from latentsmith.backbones.mixers.ssd import SSDMixerConfig
from latentsmith.backbones.scan.backends.chunk import ChunkBackend

DECODERS: dict[str, Any] = {
    kind.kind: kind for kind in (CrossConfig, JointConfig, LocalConfig, PointwiseConfig, ScanConfig)
}
MIXERS: dict[str, Any] = {
    kind.kind: kind for kind in (AttentionMixerConfig, S6MixerConfig, SSDMixerConfig)
}
BACKENDS = {"chunk": ChunkBackend}
"""The way of computing scans that is carried along; others give the same to rounding."""


def mixer_of(settings: dict[str, Any]) -> Any:
    """Settings of a mixer."""
    known = settings | ({"backend": next(iter(BACKENDS))} if "backend" in settings else {})
    return MIXERS[settings["kind"]](**known)


def features_of(field: dict[str, Any]) -> Any:
    """Features of a field's coordinates."""
    return FourierConfig(**field["fourier"]).build(field["dims"])


def decoder_for(
    decoder: dict[str, Any],
    field: dict[str, Any],
    *,
    tokens: int,
    mixer: dict[str, Any] | None = None,
    planes: bool = False,
    denoises: bool = False,
    bottleneck: int | None = None,
) -> Any:
    """The decoder of such fields; ``tokens``: numbers of each. See `DecoderShape`."""
    side = round(field["latent"]["tokens"] ** (1 / field["dims"]))
    shape = DecoderShape(
        features=features_of(field),
        mixer=mixer_of(mixer or field["mixer"]),
        tokens=tokens,
        channels=field["channels"],
        width=field["width"],
        spacing=2 / side,
        denoises=denoises,
        planes=planes,
        bottleneck=bottleneck,
    )
    return DECODERS[decoder["kind"]](**decoder).build(shape)
