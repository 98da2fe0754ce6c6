"""What the metrics are called in words, and where a latent-space card shows them.

Meanings come from the metrics' own help (`latentsmith.metrics.registry.METRICS`); here are labels,
groups and what the chance level is called. A metric that is not listed is shown by its name.
"""

from dataclasses import dataclass
from functools import cache

from latentsmith.metrics.base import Measurement


@dataclass(frozen=True)
class Term:
    """One metric in words. ``chance`` names what `Measurement.baseline` is for it."""

    label: str
    group: str = "other"
    chance: str = "chance"


DISTANCE_CORRELATION = (
    "“Distance correlation” here is the correlation between two sets of pair distances, over the "
    "pairs i < j only (the diagonal never enters): the same images' distances in the latent space "
    "and in the reference space. It is known as representational similarity analysis (RSA) or the "
    "Mantel r, and is not Székely's distance correlation. “Permuted” is what remains "
    "after shuffling which image is which: the value under no relation."
)
"""Printed wherever a distance correlation is."""

TERMS = {
    "psnr": Term("PSNR", "reconstruction"),
    "psnr_pooled": Term("PSNR, pooled error", "reconstruction"),
    "ssim": Term("SSIM", "reconstruction"),
    "ms_ssim": Term("MS-SSIM", "reconstruction"),
    "lpips": Term("LPIPS", "reconstruction"),
    "perceptual_distance": Term("Perceptual distance", "reconstruction"),
    "fd": Term("Fréchet distance", "reconstruction", "same-distribution floor"),
    "fid": Term("FID", "reconstruction", "same-distribution floor"),
    "fid_clean": Term("FID, clean resize", "generation", "same-distribution floor"),
    "fd_infinity": Term("Fréchet distance at infinite n", "generation"),
    "kid": Term("Kernel distance", "reconstruction"),
    "precision": Term("Precision", "generation", "same-distribution value"),
    "recall": Term("Recall", "generation", "same-distribution value"),
    "density": Term("Density", "generation", "same-distribution value"),
    "clip_score": Term("CLIP score", "generation", "texts of other images"),
    "coverage": Term("Coverage", "generation", "same-distribution value"),
    "off_manifold": Term("Distance from real features", "generation"),
    "attribute_accuracy": Term("Attribute accuracy", "generation", "texts of other images"),
    "edit_accuracy": Term("Edit accuracy", "generation", "source, unedited"),
    "generated_fd": Term(
        "Fréchet distance of generated images", "generation", "same-distribution floor"
    ),
    "generated_kid": Term("Kernel distance of generated images", "generation"),
    "generated_precision": Term("Precision of generated images", "generation"),
    "generated_recall": Term("Recall of generated images", "generation"),
    "generated_density": Term("Density of generated images", "generation"),
    "generated_coverage": Term("Coverage of generated images", "generation"),
    "samples_to_baseline": Term("Samples to the baseline's score", "generation"),
    "observed_psnr": Term("PSNR at known points", "reconstruction"),
    "unobserved_psnr": Term("PSNR between known points", "reconstruction"),
    "agreement": Term("Agreement of two decodings", "reconstruction"),
    "roughness": Term("Roughness over the truth's", "reconstruction"),
    "residual_correlation": Term("Correlation of neighbouring errors", "reconstruction"),
    "draws_spread": Term("Spread of draws over their error", "reconstruction"),
    "pairdist_pearson": Term("Distance correlation (Pearson)", "geometry", "permuted"),
    "pairdist_spearman": Term("Distance correlation (Spearman)", "geometry", "permuted"),
    "pairdist_stress": Term("Distance stress", "geometry"),
    "triplet_order": Term("Triplet order", "geometry"),
    "feature_mse": Term("Error of features read back", "reconstruction"),
    "token_cosine": Term("Token cosine with the teacher", "geometry", "other images' tokens"),
    "similarity_mae": Term("Error of image similarities", "geometry", "permuted"),
    "cka_linear": Term("Linear CKA", "geometry", "permuted"),
    "dcor_u": Term("Székely's distance correlation²", "geometry", "permuted"),
    "mutual_knn": Term("Mutual k-NN", "geometry"),
    "trustworthiness": Term("Trustworthiness", "geometry"),
    "continuity": Term("Continuity", "geometry"),
    "knn_accuracy": Term("k-NN accuracy, leave-one-out", "geometry", "commonest class"),
    "linear_probe": Term("Linear probe", "geometry", "commonest class"),
    "ridge_probe": Term("Ridge probe", "geometry", "commonest class"),
    "knn_probe": Term("k-NN probe", "geometry", "commonest class"),
    "mean_iou": Term("Segmentation probe, mIoU", "geometry", "commonest class"),
    "pixel_accuracy": Term("Segmentation probe, pixel accuracy", "geometry", "commonest class"),
    "equivariance_error": Term("Equivariance error", "geometry"),
    "path_length": Term("Perceptual path length", "smoothness"),
    "path_length_variance": Term("Path speed variance", "smoothness"),
    "path_length_cv": Term("Path speed variation", "smoothness"),
    "ifd": Term("Fréchet distance of midpoints", "smoothness", "same-distribution floor"),
    "ifid": Term("iFID", "smoothness", "same-distribution floor"),
    "id_twonn": Term("Intrinsic dimension (TwoNN)", "statistics"),
    "id_mle": Term("Intrinsic dimension (MLE)", "statistics"),
    "latent_std": Term("Latent deviation", "statistics"),
    "latent_kurtosis": Term("Latent excess kurtosis", "statistics"),
    "active_dims": Term("Active dimensions", "statistics"),
    "participation_ratio": Term("Participation ratio", "statistics"),
    "spectral_slope": Term("Spectral slope", "statistics"),
    "text_exact": Term("Exact texts", "text"),
    "text_token_f1": Term("Token F1", "text", "another text"),
    "text_bleu": Term("BLEU, add-one, of tokens", "text", "another text"),
    "text_rouge_l": Term("ROUGE-L", "text", "another text"),
    "text_length_error": Term("Length error in tokens", "text"),
    "text_distinct_2": Term("Different token pairs", "text"),
    "text_memorized": Term("Four-token runs of training", "text"),
    "content_accuracy": Term("Hidden content tokens guessed", "text"),
    "eos_accuracy": Term("Hidden ends guessed", "text"),
    "latent_use": Term("Nats a latent saves", "text"),
    "text_nll": Term("NLL, nats per token", "text"),
    "noise_area": Term("Mean quality over noise on latents", "text"),
    "drawn_agreement": Term("Cosine of drawn latent and drawn text", "text latents"),
    "nfe_text": Term("Looks at each text", "cost"),
    "forwards_per_sample": Term("Looks per training sample, at the end", "cost"),
    "seconds_per_1000_texts": Term("Seconds for 1,000 texts", "cost"),
    "latent_cosine": Term("Cosine to the true latent", "text latents", "another latent"),
    "retrieval_at_1": Term("R@1 among true latents", "text latents"),
    "latent_norm_ratio": Term("Length over the true one", "text latents"),
    "latent_mse": Term("Squared error per dimension", "text latents"),
    "latent_r2": Term("Variance explained", "text latents"),
    "sliced_w2": Term("Sliced Wasserstein-2", "text latents"),
}


def explain(m: Measurement) -> tuple[Term, str]:
    """The term of a measurement and what its name adds (setting, feature space; perhaps empty)."""
    key = _key(m)
    if key in TERMS and (m.name == key or m.name.startswith(f"{key}_")):
        return TERMS[key], m.name[len(key) + 1 :]
    known = TERMS.get(key, Term(""))
    return Term(m.name, known.group, known.chance), ""


def _key(m: Measurement) -> str:
    """The metric's registered name; for a hand-made measurement the longest known name that
    starts its own."""
    if m.name in TERMS or m.metric:
        return m.name if m.name in TERMS else m.metric
    longest_first = sorted(TERMS, key=len, reverse=True)
    return next((k for k in longest_first if m.name.startswith(f"{k}_")), m.name)


def label(m: Measurement) -> str:
    """``Perceptual path length, lerp, pixels ↓``: term, setting, space; the arrow is the better
    way."""
    term, rest = explain(m)
    space = m.stamp.space
    if space and rest != space and rest.endswith(f"_{space}"):
        rest = f"{rest[: -len(space) - 1]}, {space}"
    arrow = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[m.higher_is_better]
    return f"{term.label}{f', {rest}' if rest else ''}{arrow}"


def meaning(m: Measurement) -> str:
    """The metric's help as a sentence, empty for a metric nobody registered."""
    text = _helps().get(m.metric or _key(m), "")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def is_distance_correlation(m: Measurement) -> bool:
    """Whether `DISTANCE_CORRELATION` must stand near it."""
    return m.name.startswith(("pairdist_pearson", "pairdist_spearman"))


@cache
def _helps() -> dict[str, str]:
    from latentsmith.metrics.registry import METRICS

    return {metric.name: metric.help for metric in METRICS}
