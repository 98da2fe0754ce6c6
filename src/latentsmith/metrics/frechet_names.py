"""What a Fréchet distance may be called.

``fid`` says: the published Inception (by sha256), its TensorFlow resize, 50,000 generated samples
(Heusel et al. 2017). ``fid_clean``: the same with clean-fid's resize (Parmar et al. 2022). Anything
else is ``fd_<space>``: with another network, resize or count the number is another one, and reads
like the published ones all the same.
"""

from collections.abc import Mapping

from latentsmith.encoders.base import Encoder
from latentsmith.encoders.dinov2 import DinoV2
from latentsmith.encoders.inception import SHA256

FID_COUNT = 50_000
_DINO_SIZES = {384: "vits14", 768: "vitb14", 1024: "vitl14", 1536: "vitg14"}


def feature_space(encoder: Encoder) -> str:
    """The name of an encoder's feature space, as the end of a metric's name.

    The encoder's kind; for DINOv2 as dgm-eval names it (Stein et al. 2023), ``dinov2_vitl14`` for
    the large one: class token, 224 pixels, bicubic. Other outputs and resolutions are appended,
    e.g. ``dinov2_vitl14_pooled``, ``dinov2_vitb14_518``; registers as ``_reg``.
    """
    if not isinstance(encoder, DinoV2):
        return encoder.name
    size = _DINO_SIZES.get(encoder.dim)
    if size is None:
        return encoder.name
    parts = [f"dinov2_{size}", "reg" if encoder.prefix > 1 else ""]
    parts += ["" if encoder.output == "cls" else encoder.output]
    parts += ["" if encoder.resolution == 224 else str(encoder.resolution)]
    return "_".join(filter(None, parts))


def frechet_name(space: str, count: int, encoder: Mapping[str, object] | None = None) -> str:
    """``fid``, ``fid_clean`` or ``fd_<space>``.

    Args:
        space: of the features, see `feature_space`.
        count: generated samples.
        encoder: its fingerprint; without it a distance is never called FID.
    """
    encoder = encoder or {}
    published = encoder.get("kind") == "inception" and encoder.get("weights") == SHA256
    if published and count == FID_COUNT:
        names = {"tf_bilinear": "fid", "bicubic_antialias": "fid_clean"}
        return names.get(str(encoder.get("resize")), f"fd_{space}")
    return f"fd_{space}"
