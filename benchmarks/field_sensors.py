"""Sensors at scattered places: elevation from stations, learned against interpolated.

    python benchmarks/field_sensors.py --write

A field autoencoder trains on 252 maps of a real elevation model (Jacksboro fault, shipped with
Matplotlib), each known at 256 stations of its own; nothing between stations is ever shown. It is
judged on 18 maps of another part of the model: from 96 stations, the heights at 2,048 other places.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from latentsmith.autoencoders.field.decoders.cross import CrossConfig
from latentsmith.autoencoders.field.features import FourierConfig
from latentsmith.autoencoders.field.model import (
    FieldAutoencoder,
    FieldAutoencoderConfig,
    LatentConfig,
)
from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.backbones.mixers.ssd import SSDMixerConfig
from latentsmith.data.fields import FieldSamplingConfig
from latentsmith.data.fields.batches import PointBatches, of_points
from latentsmith.data.fields.interpolation import interpolate
from latentsmith.data.fields.points import Frame
from latentsmith.data.fields.terrain import terrain_stations
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.utils.files import write_json

RESULTS = Path(__file__).parent / "results"
GIVEN, ASKED = 96, 2048


def autoencoder() -> FieldAutoencoder:
    """64 tokens over the map; a value is one number, the height."""
    return FieldAutoencoderConfig(
        channels=1,
        width=64,
        depth=1,
        latent=LatentConfig(tokens=64, channels=16),
        mixer=SSDMixerConfig(curves=["hilbert", "hilbert_t"], state=8),
        decoder=CrossConfig(depth=2, trunk=1),
        fourier=FourierConfig(count=16, scale=2.0, cutoff=8.0),
    ).build()


def main() -> None:
    """Train, measure, print; with --write also below results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    stations = terrain_stations("train", stations=256)
    frame = Frame.of(stations)
    model, began = autoencoder(), time.perf_counter()
    sampling = FieldSamplingConfig(inputs=(48, 160), queries=(64, 96))
    train = TrainConfig(
        samples=args.samples, batch_size=16, lr=3e-3, warmup=1_600, log_every=4_000,
        validate_every=args.samples, save_every=args.samples, trackers=[],
    )  # fmt: skip
    batches = PointBatches(frame.normalize(stations), train.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        fit(FieldTask(model, of_points(sampling)), batches, train, Path(folder))
    seconds = time.perf_counter() - began
    known = terrain_stations("val", stations=GIVEN + ASKED, seed=1)
    heights = known.values[:, GIVEN:]
    at = frame.normalize(known)
    given = at.coordinates[:, :GIVEN], at.values[:, :GIVEN]
    where = at.coordinates[:, GIVEN:]
    rows = []
    with torch.no_grad():
        found = {"field autoencoder": model.decode_at(model.encode_points(*given), where)}
    for method in ("mean", "nearest", "linear", "cubic", "thin_plate", "kriging"):
        found[method] = interpolate(method, *given, where)
    for name, values in found.items():
        errors = (frame.restore(values) - heights).square().mean((1, 2)).sqrt()
        rows.append({"method": name, "rmse_m": round(float(errors.mean()), 1),
                     "worst_map_m": round(float(errors.max()), 1)})  # fmt: skip
    for row in rows:
        print(f"{row['method']:20} {row['rmse_m']:7.1f} m   worst map {row['worst_map_m']:7.1f} m")
    print(f"trained {args.samples} samples in {seconds:.0f} s")
    if args.write:
        about = {"given": GIVEN, "asked": ASKED, "samples": args.samples, "seconds": round(seconds)}
        write_json(RESULTS / "field_sensors.json", {"protocol": about, "rows": rows})


if __name__ == "__main__":
    main()
