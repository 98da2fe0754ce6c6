"""One U-REPA training step (denoising, token and manifold loss; LoRA and head trained).

    python benchmarks/urepa_step.py --threads 1             # CPU, beside the plain way
    python benchmarks/urepa_step.py --device cuda           # SD-1.5's size, batch 128, bf16
    python benchmarks/urepa_step.py --device cpu --tiny     # the same functions, small

CPU: ours is `DiffusionTask` stepped by the training engine (clipping, guard, moving average), and
takes turns in one process, in shuffled order, with the same step as the source document prints it
(plain_urepa.py), so that other load falls on all alike. `plain, traced` is the same script with an
input that requires a gradient, which reentrant gradient checkpointing demands. Before anything is
timed, ours and the plain ones are given the same weights, noise, times and texts, and must give
the same loss and the same gradients (float32 tolerance). Given are the best and the median of the
turns, the median processor time of a turn (which other load hardly changes), and the median over
rounds of (theirs / ours of the same round); the bytes that autograd keeps between forward and
backward (distinct storages, without the weights); the bytes of moving average, optimizer and a
checkpoint; and the operations of a forward and of a backward pass, counted by torch (matrix
products, convolutions, attention). With LoRA in the middle block alone nothing before it needs a
gradient: no graph, no activations, no backward operations there, unless the input asks for one.

CUDA: ours alone, on random weights saved as a pipeline: autocast bfloat16, frozen weights
bfloat16, channels last, `torch.compile`, each scope with and without recomputation (gradient
checkpointing, of what takes gradients only); and how fast stores are read at the source's records.
Utilisation is that of the device's dense bf16 peak by the model's operations, without what is
computed again. Goals: at most 0.5 s a step and 50 GB.
"""

import argparse
import gc
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dit_step import PEAK_TFLOPS
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap
from plain_urepa import PlainURepa
from store_reading import SHAPES as RECORDS
from store_reading import Bench as Stores
from urepa_sides import (
    SIZES,
    Batch,
    Ours,
    batch_of,
    check_same,
    save_pipeline,
    texts_of,
)

RESULTS = Path(__file__).parent / "results"
SCOPES = ("mid", "all_attention")
FAST: dict[str, Any] = {
    "unet": {"channels_last": True, "frozen_dtype": "bfloat16"},
    "precision": "bf16",
}
READERS = ("shards, ring, 2 threads", "LMDB, ring, 2 threads")


def _attention(q: Any, k: Any, v: Any, *args: Any, **more: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *args: Any, **more: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter leaves out on CPUs."""


# Counting -----------------------------------------------------------------------------------------


def kept_bytes(module: nn.Module, loss: Callable[[], Tensor]) -> int:
    """What autograd keeps for the backward pass: distinct storages, without the weights."""
    own = {t.untyped_storage().data_ptr() for t in [*module.parameters(), *module.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def counts(module: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    """Bytes kept and GFLOP of one step; its gradients are dropped."""
    kept = kept_bytes(module, loss)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as ahead:
        value = loss()
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as back:
        value.backward()
    module.zero_grad(set_to_none=True)
    forward, backward = ahead.get_total_flops() / 1e9, back.get_total_flops() / 1e9
    return {"kept_bytes": kept, "forward_gflop": forward, "backward_gflop": backward}


# Beside the plain way -----------------------------------------------------------------------------


def sides(folder: str, run: Path, size: dict[str, Any], scope: str, batch: Batch) -> dict[str, Any]:
    """name → a side; the plain ones are checked to compute what ours does."""
    ours = Ours(folder, size, scope, run, "cpu")
    ours.prepare()
    tokens, dim = size["teacher"]
    how = {"dim": dim, "grid": round(tokens**0.5), "scope": scope}
    found: dict[str, Any] = {"ours": ours}
    for name, traced in (("plain", False), ("plain, traced", True)):
        found[name] = PlainURepa(folder, texts_of(size), traced=traced, **how)
        check_same(ours, found[name], batch)
    return found


def measure_scope(args: argparse.Namespace, folder: str, run: Path, scope: str) -> dict[str, Any]:
    """One row for each side."""
    size = SIZES[args.size]
    batch = batch_of(size)
    found = sides(folder, run, size, scope, batch)
    modules = {n: s.task if n == "ours" else s.model for n, s in found.items()}
    counted = {n: counts(modules[n], lambda s=s: s.loss(batch)) for n, s in found.items()}
    turns: dict[str, list[float]] = {name: [] for name in found}
    busy: dict[str, list[float]] = {name: [] for name in found}
    order, shuffle = list(found), random.Random(0)
    for number in range(args.warmup + args.rounds):
        shuffle.shuffle(order)
        for name in order:
            start, began = time.perf_counter(), time.process_time()
            found[name].step(batch)
            if number >= args.warmup:
                turns[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - began)
    rows = [
        {
            "side": name,
            "best_ms": 1e3 * min(times),
            "median_ms": 1e3 * statistics.median(times),
            "busy_ms": 1e3 * statistics.median(busy[name]),
            "images_per_second": size["batch"] / min(times),
            "times_ours": statistics.median(
                a / b for a, b in zip(times, turns["ours"], strict=True)
            ),
            "rounds_ms": [1e3 * s for s in times],
            **counted[name],
            **found[name].state_bytes(),
        }
        for name, times in turns.items()
    ]
    trained = sum(p.numel() for p in found["ours"].trained())
    return {"scope": scope, "trained": trained, "rows": rows, "load": os.getloadavg()}


# Full size ----------------------------------------------------------------------------------------


def count_fast(args: argparse.Namespace, folder: str, run: Path, scope: str) -> dict[str, float]:
    """`counts` of the whole batch, from a small one: all of it may not fit without recomputation,
    which the model's operations do not hold."""
    size = SIZES[args.size]
    few = size | {"batch": min(size["batch"], 4)}
    ours = Ours(folder, few, scope, run, args.device, **FAST)
    found = counts(ours.task, lambda: ours.loss(batch_of(few)))
    return {name: value * size["batch"] / few["batch"] for name, value in found.items()}


def time_fast(args: argparse.Namespace, ours: Ours, batch: Batch) -> list[float]:
    """Seconds a step, of each round."""
    cuda = args.device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    ours.prepare()
    for _ in range(args.warmup):
        ours.step(batch)
    times = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.rounds):
        wait()
        start = time.perf_counter()
        for _ in range(args.steps):
            ours.step(batch)
        wait()
        times.append((time.perf_counter() - start) / args.steps)
    return times


def measure_fast(args: argparse.Namespace, folder: str, run: Path, scope: str) -> dict[str, Any]:
    """Ours with everything that makes it fast, with and without recomputation."""
    size, cuda = SIZES[args.size], args.device == "cuda"
    counted = count_fast(args, folder, run / "counted", scope)
    gflop = counted["forward_gflop"] + counted["backward_gflop"]
    name = torch.cuda.get_device_name() if cuda else platform.machine()
    peak = next((v for k, v in PEAK_TFLOPS.items() if k in name), None)
    batch = {k: v.pin_memory() if cuda else v for k, v in batch_of(size).items()}
    rows = []
    for again in (False, True):
        gc.collect()  # the one before
        torch._dynamo.reset()
        if cuda:
            torch.cuda.empty_cache()
        unet = FAST["unet"] | {"gradient_checkpointing": again}
        how = FAST | {"unet": unet, "compile": not args.no_compile}
        try:
            ours = Ours(folder, size, scope, run / str(again), args.device, **how)
            times = time_fast(args, ours, batch)
        except torch.OutOfMemoryError:
            rows.append({"recompute": again, "median_ms": None})
            continue
        finally:
            ours = None
        median = statistics.median(times)
        tflops = gflop / median / 1e3
        rows.append(
            {
                "recompute": again,
                "best_ms": 1e3 * min(times),
                "median_ms": 1e3 * median,
                "images_per_second": size["batch"] / median,
                "tflops": tflops,
                "utilisation": None if peak is None else tflops / peak,
                "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
                "rounds_ms": [1e3 * s for s in times],
            }
        )
    return {"scope": scope, "device_name": name, "peak_tflops": peak, "rows": rows, **counted}


def measure_reading(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Samples a second of both kinds of store, warm, best of the turns; see store_reading.py."""
    rows = []
    for record, shape in RECORDS.items():
        row = 2 * shape[0] * shape[1] * (shape[2] if len(shape) > 2 else 1)
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            stores = Stores(folder, shape, int(args.gigabytes * 1e9 / row))
            for name in READERS:
                stores.check(name, stores.reader(name))
                speeds = [stores.turn(name, 8, seed) for seed in range(args.rounds)]
                rows.append({"record": record, "reader": name, "samples_per_second": max(speeds)})
        finally:
            shutil.rmtree(folder)
    return rows


# Telling ------------------------------------------------------------------------------------------


def mb(count: float) -> str:
    """1234567 → ``1.2``."""
    return f"{count / 1e6:,.1f}"


def compared(scope: dict[str, Any]) -> str:
    """Tables of `measure_scope`."""
    text = f"\n## LoRA scope {scope['scope']}: {scope['trained']:,} numbers train\n\n"
    text += "| side | best ms | median ms | busy ms | images/s | times ours | kept MB "
    text += "| GFLOP forward | GFLOP backward |\n|---|---|---|---|---|---|---|---|---|\n"
    for r in scope["rows"]:
        text += f"| {r['side']} | {r['best_ms']:,.0f} | {r['median_ms']:,.0f} "
        text += f"| {r['busy_ms']:,.0f} | {r['images_per_second']:.1f} "
        text += f"| {r['times_ours']:.2f} | {mb(r['kept_bytes'])} "
        text += f"| {r['forward_gflop']:.1f} | {r['backward_gflop']:.1f} |\n"
    text += "\n| side | average MB | optimizer MB | checkpoint MB |\n|---|---|---|---|\n"
    for r in scope["rows"]:
        text += f"| {r['side']} | {mb(r['average'])} | {mb(r['optimizer'])} "
        text += f"| {mb(r['checkpoint'])} |\n"
    return text


def fast_table(scopes: list[dict[str, Any]], reading: list[dict[str, Any]]) -> str:
    """Tables of `measure_fast` and `measure_reading`."""
    text = f"\n{scopes[0]['device_name']}, bf16, compiled, channels last, frozen bfloat16. Kept: "
    text += "activations without recomputation, counted from a few samples.\n\n"
    text += "| LoRA scope | recompute | best ms | median ms | images/s | TFLOP/s | of peak "
    text += "| memory GB | kept GB |\n|---|---|---|---|---|---|---|---|---|\n"
    for scope in scopes:
        for r in scope["rows"]:
            text += f"| {scope['scope']} | {'yes' if r['recompute'] else 'no'} | {fast_row(r)} "
            text += f"| {scope['kept_bytes'] / 1e9:.2f} |\n"
    text += "\n| records of | reader | samples/s |\n|---|---|---|\n"
    for r in reading:
        text += f"| {r['record']} | {r['reader']} | {r['samples_per_second']:,.0f} |\n"
    return text


def fast_row(r: dict[str, Any]) -> str:
    """Cells of one row."""
    if r["median_ms"] is None:
        return "does not fit | | | | |"
    share = "" if r["utilisation"] is None else f"{r['utilisation']:.1%}"
    memory = "" if r["memory_gb"] is None else f"{r['memory_gb']:.1f}"
    return (
        f"{r['best_ms']:.1f} | {r['median_ms']:.1f} | {r['images_per_second']:.1f} "
        f"| {r['tflops']:.2f} | {share} | {memory}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The result as a document."""
    size = SIZES[result["size"]]
    text = (
        f"# U-REPA training step\n\n{result['parameters']:,} parameters in the U-Net, latents "
        f"4 x {result['side']} x {result['side']}, teacher {list(size['teacher'])}, batch "
        f"{size['batch']}; {result['threads']} thread(s), torch {result['torch']}, diffusers "
        f"{result['diffusers']}, {result['machine']}, load average {result['load'][0]:.1f} at the "
        f"end. Made by `{result['command']}`, which says how.\n"
    )
    if "reading" in result:
        return text + fast_table(result["scopes"], result["reading"])
    return text + "".join(compared(scope) for scope in result["scopes"])


def parse() -> argparse.Namespace:
    """Command line; what is left open follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="cpu: what cuda does, small")
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=list(SCOPES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of a round on CUDA")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--gigabytes", type=float, help="of each store that is read")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--write", action="store_true", help="keep the result")
    args = parser.parse_args()
    args.fast = args.tiny or args.device == "cuda"
    args.size = "tiny" if args.tiny else "full" if args.fast else "small"
    args.gigabytes = args.gigabytes or (0.1 if args.tiny else 0.7)
    return args


def main() -> None:
    """Measure, print, write."""
    import diffusers

    args = parse()
    torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA here: nothing measured")
        return
    keep_heap()
    measure = measure_fast if args.fast else measure_scope
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        parameters, side, folder = save_pipeline(root / "pipeline", SIZES[args.size])
        scopes = [measure(args, folder, root / scope, scope) for scope in args.scopes]
    result = {
        "command": " ".join(["python benchmarks/urepa_step.py", *sys.argv[1:]]),
        "size": args.size,
        "parameters": parameters,
        "side": side,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": platform.machine(),
        "scopes": scopes,
    }
    if args.fast:
        result["reading"] = measure_reading(args)
    result["load"] = os.getloadavg()
    print(markdown(result))
    if args.write and not args.tiny:
        stem = RESULTS / f"urepa_step_{args.device}"
        write_json(stem.with_suffix(".json"), result)
        with atomic_path(stem.with_suffix(".md")) as tmp:
            tmp.write_text(markdown(result))


if __name__ == "__main__":
    main()
