"""What a store costs beside the bare forward pass of the model that fills it.

    python benchmarks/cache_overhead.py [--images 384] [--rounds 5] [--threads 1] [--device cpu]

Both sides see the same images in the same batches, in turns within one process. The bare side
encodes batches that lie ready in memory (on the device) and drops the results; the other makes a
whole store of JPEG files: reading and decoding in threads, resizing, encoding, casting, checks,
checksums, statistics, fsync, manifest. Overhead is the median over rounds of (store / bare of the
same round). What is done once per command (digests of weights and files) is given apart. On a CPU
where the network keeps every core busy decoding cannot hide behind it: `--threads` says how many
cores the network gets. Prints a markdown table; writes it with all rounds to
benchmarks/results/cache_overhead.{md,json}.
"""

import argparse
import io
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.data.base import Dataset
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.loader import Loader
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config
from latentsmith.stores.contents import Contents, fill
from latentsmith.stores.features import token_contents
from latentsmith.stores.latents import latent_contents
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap

RESULTS = Path(__file__).parent / "results"
SIDE = 160
"""Of the JPEG files."""


def photos(folder: Path, count: int) -> Dataset:
    """JPEG files with as much detail as it takes to be hard to decode."""
    shapes = ShapesConfig(resolution=SIDE, train_count=count, val_count=1).build("train", folder)
    noise = torch.Generator().manual_seed(0)
    (folder / "train").mkdir()
    (folder / "val").mkdir()
    for index in range(count):
        image = shapes[index]["image"].int()
        image += torch.randint(-20, 20, image.shape, generator=noise)
        pixels = image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "train" / f"{index:05d}.jpg", quality=92)
    shutil.copy(folder / "train" / "00000.jpg", folder / "val")
    return ImageFolderConfig(folder=folder).build("train", folder)


SHARDS = 12
"""All but the last are written while the next is computed; a large store has 64 or more."""

Case = tuple[Callable[[Dataset], Contents], Callable[[Tensor], Any], int, int]
"""(what the store of a dataset holds, the bare forward, resolution, images over `--images`): a fast
network gets more, or the start and the end of a store would be most of what is measured."""


def cases(device: torch.device) -> dict[str, Case]:
    """A latents store of a mid-sized autoencoder, and a token store of a fast encoder."""
    autoencoder = KLAutoencoderConfig(block_out_channels=[64, 128, 256, 256]).build().to(device)
    autoencoder.eval()
    encoder = EfficientNetLite0Config(resolution=128).build().to(device)
    size = {side: TransformConfig(resolution=side).build() for side in (64, 128)}
    return {
        "latents 64², KL autoencoder (moments, fp16)": (
            lambda data: latent_contents(autoencoder, data, size[64]),
            autoencoder.encode,
            64,
            1,
        ),
        "tokens 128², EfficientNet-Lite0 (unit, fp16)": (
            lambda data: token_contents(encoder, data, size[128]),
            encoder,
            128,
            8,
        ),
    }


def ready(data: Dataset, resolution: int, batch: int, device: torch.device) -> list[Tensor]:
    """All batches in memory."""
    transform = TransformConfig(resolution=resolution).build()
    loader = Loader(data, transform, batch_size=batch, seed=0, shuffle=False)
    return [b["image"].to(device) for b in loader.epoch()]


def wait(device: torch.device) -> None:
    """Until the device has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def bare(forward: Callable[[Tensor], Any], batches: list[Tensor], device: torch.device) -> float:
    """Seconds of the forward passes alone."""
    wait(device)
    started = time.perf_counter()
    for batch in batches:
        forward(batch)
    wait(device)
    return time.perf_counter() - started


def whole(contents: Contents, folder: Path, batch: int) -> float:
    """Seconds of making the store."""
    started = time.perf_counter()
    rows = -(-contents.manifest.count // SHARDS)
    fill(folder / "store", contents, batch_size=batch, rows_per_shard=rows)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder / "store")
    return seconds


def compare(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both sides in every round, after one that is not counted."""
    make, forward, resolution, more = case
    data = photos(folder, args.images * more)
    device = torch.device(args.device)
    batches = ready(data, resolution, args.batch, device)
    rounds: dict[str, list[float]] = {"bare": [], "store": [], "start": []}
    for number in range(args.rounds + 1):
        with tempfile.TemporaryDirectory() as stores:
            started = time.perf_counter()
            contents = make(data)
            seconds = {"start": time.perf_counter() - started}
            sides = ["bare", "store"] if number % 2 else ["store", "bare"]
            for side in sides:
                if side == "bare":
                    seconds[side] = bare(forward, batches, device)
                else:
                    seconds[side] = whole(contents, Path(stores), args.batch)
        if number:
            for name, value in seconds.items():
                rounds[name].append(value)
    ratio = [s / b for s, b in zip(rounds["store"], rounds["bare"], strict=True)]
    return {
        **rounds,
        "images": len(data),
        "overhead": statistics.median(ratio) - 1,
        "ratios": ratio,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Overhead of filling a store.")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="cores for the network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_heap()
    found = {}
    for name, case in cases(torch.device(args.device)).items():
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
            found[name] = compare(case, Path(folder), args)
    lines = [
        f"JPEG files of {SIDE} x {SIDE}, batches of {args.batch}, {args.threads} "
        f"thread(s) for the network, {args.device}, torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}",
        "",
        "| store | images | forward alone | store | overhead (rounds) | once per command |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        bare_s, store_s, start = (statistics.median(row[k]) for k in ("bare", "store", "start"))
        low, high = (f"{100 * (edge(row['ratios']) - 1):+.1f}" for edge in (min, max))
        lines.append(
            f"| {name} | {row['images']} | {bare_s:.2f} s | {store_s:.2f} s "
            f"| {100 * row['overhead']:+.1f} % ({low} to {high}) | {start:.2f} s |"
        )
    print("\n".join(lines))
    if not args.no_write:
        write_json(RESULTS / "cache_overhead.json", {"settings": vars(args), "found": found})
        with atomic_path(RESULTS / "cache_overhead.md") as tmp:
            tmp.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
