"""What the metrics' names mean, for readers who have not met them.

A measurement's name is ``<statistic>[_<space>]``; the longest known statistic at its start gives
label and meaning, the rest is the feature space. Unknown names are shown as they are.
"""

from dataclasses import dataclass

from latentsmith.metrics.base import Measurement


@dataclass(frozen=True)
class Term:
    """One statistic in words. ``chance`` names what `Measurement.baseline` is for it."""

    label: str
    meaning: str = ""
    chance: str = "chance"


DISTANCE_CORRELATION = (
    "“Distance correlation” here is the correlation between two sets of pair distances, over the "
    "pairs i < j only (the diagonal never enters): the same images' distances in the latent space "
    "and in the reference space. It is known as representational similarity analysis (RSA) or the "
    "Mantel r, and is not Székely's distance correlation. “Permuted” is what remains "
    "after shuffling which image is which: the value under no relation."
)
"""Printed wherever a distance correlation is."""

_PAIRS = "the same images' pair distances in latent and reference space (RSA / Mantel r, i < j)"

TERMS = {
    "pairdist_pearson": Term(
        "Distance correlation (Pearson)", f"Pearson r between {_PAIRS}.", "permuted"
    ),
    "pairdist_spearman": Term(
        "Distance correlation (Spearman)", f"Rank correlation between {_PAIRS}.", "permuted"
    ),
    "probe": Term("Linear probe", "Accuracy of a linear classifier on frozen latents."),
    "linear_probe": Term("Linear probe", "Accuracy of a linear classifier on frozen latents."),
    "knn_probe": Term("k-NN probe", "Accuracy of nearest-neighbour voting on frozen latents."),
    "psnr": Term("PSNR", "Reconstruction against the original, mean over images."),
    "ssim": Term("SSIM", "Structural similarity of reconstruction and original."),
    "lpips": Term("LPIPS", "Perceptual distance of reconstruction and original."),
    "mse": Term("MSE", "Mean squared reconstruction error."),
    "l1": Term("L1", "Mean absolute reconstruction error."),
    "rfd": Term("Fréchet distance, reconstructions", "Reconstructions against originals."),
    "fd": Term("Fréchet distance", "Between two sets of images in a named feature space."),
    "rfid": Term("rFID", "Fréchet distance on Inception features, reconstructions."),
    "fid": Term("FID", "Fréchet distance on Inception features."),
    "ifd": Term(
        "Fréchet distance, interpolations",
        "Decoded midpoints of nearest latent neighbours against real images; foretells generation.",
    ),
    "ifid": Term(
        "iFID",
        "FID of decoded interpolations of nearest latent neighbours; foretells generation.",
    ),
    "kid": Term("Kernel distance", "Unbiased squared MMD between two sets of images."),
    "twonn": Term("Intrinsic dimension (TwoNN)", "From the ratio of the two nearest neighbours."),
    "mle": Term("Intrinsic dimension (MLE)", "Levina and Bickel's estimator."),
    "cka": Term("Linear CKA", "Unbiased; similarity of two representations' Gram matrices."),
    "mutual_knn": Term("Mutual k-NN", "Share of nearest neighbours common to both spaces."),
    "trustworthiness": Term(
        "Trustworthiness",
        "Few false neighbours: latent neighbours are neighbours in the reference.",
    ),
    "continuity": Term(
        "Continuity", "Few lost neighbours: reference neighbours stay neighbours in the latents."
    ),
    "equivariance": Term(
        "Equivariance error", "How far decoding a moved latent is from moving the decoded image."
    ),
    "ppl": Term("Perceptual path length", "Change of the decoded image per squared latent step."),
    "latent_std": Term("Latent std", "Standard deviation of the latents before normalization."),
}


def explain(name: str) -> tuple[Term, str]:
    """The term at the start of ``name`` and the rest (the feature space, perhaps empty)."""
    for key in sorted(TERMS, key=len, reverse=True):
        if name == key or name.startswith((key + "_", key + "@")):
            return TERMS[key], name[len(key) :].lstrip("_")
    return Term(name), ""


def label(m: Measurement) -> str:
    """``Distance correlation (Pearson), efficientnet_lite0 ↑``; the arrow is the better way."""
    term, rest = explain(m.name)
    arrow = {True: " ↑", False: " ↓", None: ""}[m.higher_is_better]
    return f"{term.label}{', ' + rest if rest else ''}{arrow}"


def is_distance_correlation(m: Measurement) -> bool:
    """Whether `DISTANCE_CORRELATION` must stand near it."""
    return m.name.startswith("pairdist_")
