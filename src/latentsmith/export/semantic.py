"""The autoencoder around a vision encoder as the class that exports ship."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.encoders import clip, dinov2, efficientnet_lite0, siglip
from latentsmith.errors import UserError

Colour = float | Sequence[float]

COLOURS: dict[str, tuple[Colour, Colour]] = {
    "dinov2": (dinov2.MEAN, dinov2.STD),
    "clip": (clip.MEAN, clip.STD),
    "siglip": (siglip.MEAN, siglip.STD),
    "efficientnet_lite0": (efficientnet_lite0.MEAN, efficientnet_lite0.STD),
}
"""Mean and deviation each vision encoder that is shipped takes off its images."""
INSTEAD = "The saved generator is a folder to copy as it is"
PROJECTORS = ("identity", "mlp", "transformer")


def check_semantic(autoencoder: SemanticAutoencoder) -> None:
    """Raises UserError for parts that the shipped class has not, naming the setting."""
    config = autoencoder.config
    for setting, kind, known in (
        ("autoencoder.encoder", config.encoder.kind, tuple(COLOURS)),
        ("autoencoder.projector", config.projector.kind, PROJECTORS),
    ):
        if kind not in known:
            raise UserError(
                f"{setting}={kind} cannot be exported as a pipeline: known are {', '.join(known)}. "
                f"{INSTEAD}"
            )


def semantic_settings(autoencoder: SemanticAutoencoder) -> dict[str, Any]:
    """Arguments of the shipped class. Raises UserError where the latents' scale is missing or
    stale."""
    config, encoder = autoencoder.config, autoencoder.encoder
    kind, settings = config.encoder.kind, asdict(config.encoder)
    mean, std = (_three(colour) for colour in COLOURS[kind])
    return {
        "encoder_settings": {
            "kind": kind,
            "resolution": getattr(encoder, "resolution", settings["resolution"]),
            "mean": mean,
            "std": std,
            "architecture": {} if kind == "efficientnet_lite0" else _architecture(encoder),
            "projection": settings.get("projection", False),
            "stride": settings.get("stride", 32),
        },
        "projector_settings": asdict(config.projector),
        "decoder_settings": asdict(config.decoder),
        "features": len(autoencoder.feature_mean),
        "grid": list(autoencoder.grid),
        "latent_channels": autoencoder.latent_channels,
        "in_channels": autoencoder.channels,
        **autoencoder.require_normalizer().diffusers_config(),
    }


def semantic_model(autoencoder: SemanticAutoencoder) -> Any:
    """The shipped class with the autoencoder's weights. Raises UserError as `semantic_settings`."""
    from latentsmith.export.shipped.modeling_semantic import SemanticAutoencoderModel

    model: Any = SemanticAutoencoderModel(**semantic_settings(autoencoder))
    model.load_state_dict(autoencoder.state_dict())
    return model.eval()


def _architecture(encoder: Any) -> dict[str, Any]:
    """Of the network's transformers config, with the kind of its model."""
    return {"model_type": encoder.model.config.model_type} | encoder.architecture()


def _three(colour: Colour) -> list[float]:
    return [float(colour)] * 3 if isinstance(colour, int | float) else [float(c) for c in colour]
