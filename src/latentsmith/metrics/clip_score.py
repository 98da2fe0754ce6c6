"""Does an image show what its text says (Hessel et al. 2021, CLIPScore, arXiv 2104.08718)?

    100 max(cos(image, text), 0)

of CLIP's embeddings, in the scale that libraries print (the paper's own is 2.5 max(cos, 0)).
"""

from typing import Any

from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.losses.alignment import unit
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.intervals import permutation_mean
from latentsmith.metrics.registry import metric


def clip_score_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """Score of each pair [N], float64; arguments as `clip_score`."""
    for x, name in ((features, "image embeddings"), (features_ref, "text embeddings")):
        check_finite(x, name)
    if features.shape != features_ref.shape or features.ndim != 2:
        raise UserError(
            f"image embeddings {list(features.shape)} against text embeddings "
            f"{list(features_ref.shape)}: both are [N, D], projected, of one CLIP model"
        )
    cosine = (unit(features.double()) * unit(features_ref.double())).sum(1)
    return 100 * cosine.clamp_min(0)


def _shuffled(features: Tensor, features_ref: Tensor, *, seed: int) -> tuple[float, dict[str, Any]]:
    """Texts of other images."""
    return permutation_mean(
        lambda i, j: float(clip_score_per_sample(features[i], features_ref[j]).mean()),
        len(features),
        seed,
    )


@metric(
    "clip_score",
    help="cosine of CLIP's embeddings of images and of their texts, times 100",
    inputs=("features", "features_ref"),
    higher_is_better=True,
    best=100.0,
    per_sample=clip_score_per_sample,
    baseline=_shuffled,
)
def clip_score(features: Tensor, features_ref: Tensor) -> float:
    """Mean over pairs, in [0, 100].

    Args:
        features: CLIP's embeddings of images [N, D]. features_ref: of their texts [N, D].

    Raises:
        UserError: other shapes, NaN.
    """
    return float(clip_score_per_sample(features, features_ref).mean())
