"""Made-up but lifelike runs for the tests of reports: numbers as a laptop run gives them."""

import json
import math
from pathlib import Path

import torch

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports import plots
from latentsmith.reports.page import Report, Section, write_report
from latentsmith.reports.verdicts import above, above_baseline, within_percent

SPACE = "efficientnet_lite0"
PAIR = f"pairdist_pearson_{SPACE}"


def stamp(space: str = "", **more) -> Stamp:
    """The protocol of a small validation measurement."""
    return Stamp("fashion_mnist/val", more.pop("count", 2000), space, seed=0, **more)


def arm(quality: float = 0.0) -> dict[str, Measurement]:
    """Measurements of one autoencoder by name; ``quality`` 0 is the baseline, 1 regularized."""
    r = 0.462 + 0.385 * quality
    found = [
        Measurement(PAIR, r, stamp(SPACE, detail={"pairs": "i<j"}), (r - 0.013, r + 0.012), True,
                    baseline=0.0008),
        Measurement(f"pairdist_spearman_{SPACE}", r - 0.02, stamp(SPACE, detail={"pairs": "i<j"}),
                    (r - 0.035, r - 0.006), True, baseline=-0.0011),
        Measurement("psnr", 24.93 - 0.21 * quality, stamp(detail={"rounding": "uint8"}),
                    (24.86 - 0.21 * quality, 25.0 - 0.21 * quality), True, "dB"),
        Measurement("ssim", 0.913 - 0.004 * quality, stamp(detail={"window": 11}),
                    (0.911 - 0.004 * quality, 0.915 - 0.004 * quality), True),
        Measurement("linear_probe", 84.3 + 1.9 * quality, stamp(detail={"train": 10000}),
                    (83.5 + 1.9 * quality, 85.0 + 1.9 * quality), True, "%", baseline=10.0),
        Measurement("id_twonn", 14.2 - 2.5 * quality, stamp(), (13.8 - 2.5 * quality, 14.7), None),
        Measurement("ifd_" + SPACE, 31.4 - 6 * quality, stamp(SPACE, count=1000), None, False),
        Measurement("path_length_variance_slerp_pixels", 4.1e-4,
                    stamp("pixels", count=256, detail={"eps": 0.05, "kind": "slerp"}),
                    (3.6e-4, 4.7e-4), False),
    ]  # fmt: skip
    return {m.name: m for m in found}


def images(count: int, size: int = 28, seed: int = 0, blur: float = 0.0) -> torch.Tensor:
    """[count, 1, size, size] in [0, 1]: bright blobs, softer with ``blur``."""
    g = torch.Generator().manual_seed(seed)
    yx = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij"))
    centre = torch.rand(count, 2, 1, 1, generator=g) - 0.5
    wide = 0.15 + 0.2 * torch.rand(count, 1, 1, generator=g)
    radius = (yx - centre).abs().amax(1)
    return torch.sigmoid((wide - radius) / (0.01 + blur)).unsqueeze(1)


def log(weight: float = 0.0) -> list[dict]:
    """Records of a metrics.jsonl."""
    out = []
    for i in range(1, 41):
        decay = math.exp(-i / 9)
        loss = 0.04 + 0.2 * decay + 0.01 * weight
        out.append({"kind": "train", "samples": 1600 * i, "loss": loss, "pair": 0.1 + decay})
        if i % 5 == 0:
            value = {"loss": loss * 1.05, "psnr": 25 - 8 * decay - weight}
            out.append({"kind": "validation", "samples": 1600 * i, **value})
    return out


def distances(quality: float, seed: int = 0) -> plots.Distances:
    """Pair distances of 300 points with about the correlation of `arm`."""
    g = torch.Generator().manual_seed(seed)
    reference = torch.distributions.Gamma(20.0, 20.0).sample((44_850,))  # seeded by the caller
    noise = torch.randn(reference.shape, generator=g) * (0.42 - 0.28 * quality)
    label = "regularized" if quality else "baseline"
    return plots.Distances(
        label, (reference + noise).clamp(min=0.05), reference, arm(quality)[PAIR]
    )


def report(quality: float = 1.0, weight: float = 0.3, *, figures: bool = True) -> Report:
    """A whole mmreg report."""
    base, ours = arm(), arm(quality)
    targets = [
        above(ours[PAIR], 0.8, name="Distance correlation", baseline=base[PAIR],
              meaning="Latent distances follow the trained reference's distances."),
        within_percent(ours["psnr"], base["psnr"], 2, name="PSNR kept",
                       meaning="Reconstruction costs at most 2 % of the baseline's PSNR."),
        above_baseline(ours["linear_probe"], base["linear_probe"], name="Linear probe",
                       meaning="Frozen latents classify better than the baseline's."),
        above_baseline(ours["ifd_" + SPACE], base["ifd_" + SPACE], name="Interpolations",
                       meaning="Decoded midpoints of latent neighbours look like real images."),
        above_baseline(None, None, name="Generation", required=False,
                       meaning="Diffusion on these latents needs fewer steps."),
    ]  # fmt: skip
    return Report(
        title="MM-Reg on Fashion-MNIST",
        subtitle="Laptop scale, reference `efficientnet_lite0`, loss `pearson`, "
        f"weight {weight}, 60k images",
        lead="Latent distances follow EfficientNet's (0.46 → 0.85) and PSNR falls by 0.8 %.",
        targets=targets,
        sections=_sections(quality) if figures else [],
        measurements={"baseline": list(base.values()), "regularized": list(ours.values())},
        config=config(weight),
        manifest={"versions": {"torch": "2.13.0"}, "hardware": {"cpu": "2 cores"}},
        run="runs/mmreg/laptop",
    )


def config(weight: float) -> dict:
    """A resolved config."""
    return {"kind": "mmreg", "seed": 0, "loss": {"kind": "pearson", "weight": weight}}


def _sections(quality: float) -> list[Section]:
    torch.manual_seed(0)
    rows = [
        ("original", images(10)),
        ("baseline", images(10, blur=0.05)),
        ("regularized", images(10, blur=0.07)),
    ]
    steps = torch.linspace(0, 1, 9).view(-1, 1, 1, 1)
    a, b = images(2, seed=3)
    scatter = plots.distance_scatter(
        [distances(0.0), distances(quality)],
        caption="Each dot a bin of image pairs; a rising, narrow cloud is a faithful latent space.",
        reference=SPACE,
    )
    grid = plots.image_grid(rows, caption="Held-out images and reconstructions.", alt="Images.")
    walk = plots.image_grid(
        [(n, a * (1 - steps) + b * steps) for n in ("baseline", "regularized")],
        heads=[f"{t:.2f}" for t in torch.linspace(0, 1, 9).tolist()],
        caption="Straight paths between two held-out images, decoded.",
        alt="Interpolations.",
    )
    points = [
        plots.TradePoint(str(w), arm(q)[PAIR], arm(c)["psnr"])
        for w, q, c in ((0.1, 0.5, 0.2), (0.3, 1.0, 1.0), (1, 1.12, 2.6), (3, 1.2, 6.0))
    ]
    trade = plots.tradeoff(
        points,
        caption="Distance correlation against PSNR, points named by the loss weight.",
        gain_label="distance correlation",
        cost_label="PSNR (dB)",
        gain_bar=0.8,
        cost_bar=24.93 * 0.98,
        cost_bar_label="baseline − 2 %",
        baseline=plots.TradePoint("baseline", arm()[PAIR], arm()["psnr"]),
    )
    curves = plots.training_curves(
        {"baseline": log(), "regularized": log(0.3)}, caption="Training and validation."
    )
    arms = {n: [(k, m) for k, m in arm(q).items() if k.startswith(("pairdist", "ssim"))]
            for n, q in (("baseline", 0.0), ("regularized", quality))}  # fmt: skip
    decay = torch.arange(1, 257).double()
    spectrum = plots.spectrum(
        {"baseline": decay**-1.0, "regularized": decay**-1.5}, caption="Spectrum of the latents."
    )
    assert curves is not None
    return [
        Section("Geometry", "How latent distances follow the reference.", [scatter,
                plots.bars(arms, caption="With 95 % intervals; orange: permuted.")]),
        Section("Reconstruction", "", [grid]),
        Section("Smoothness", "", [walk]),
        Section("Trade-off", "", [trade]),
        Section("Training", "", [curves, spectrum]),
    ]  # fmt: skip


def run_folder(
    folder: Path, weight: float = 0.3, quality: float = 1.0, figures: bool = False
) -> Path:
    """A finished run's folder as the library leaves it."""
    (folder / "baseline").mkdir(parents=True)
    lines = "".join(json.dumps(r) + "\n" for r in log(weight))
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "baseline" / "metrics.jsonl").write_text(lines)
    (folder / "config.yaml").write_text(json.dumps(config(weight)))  # JSON is YAML
    (folder / "manifest.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}}))
    write_report(folder, report(quality, weight, figures=figures))
    return folder
