"""Training step (forward, backward, AdamW) of our SiT against the same network elsewhere.

    python benchmarks/dit_step.py                      # CPU, all three in turns
    python benchmarks/dit_step.py --device cuda        # SiT-XL/2, batch 256, bf16, compiled

CPU: ours, the network written the plain way (plain_dit.py: softmax(q kᵀ) v, timm's style) and
diffusers' DiTTransformer2DModel take turns in one process, in shuffled order, on the same data
with the same fused AdamW, so that other load falls on all alike. Given are the best and the median
of their turns, and the median over rounds of (theirs / ours of the same round). The first two have
the same weights and the same output (checked before timing). diffusers' class has a time and a
label embedder in every block, here tied to one, as in the checkpoints it was made for, which makes
its step cheaper than as it comes. Two networks, unless sizes are given: the laptop scale's (64
tokens), and four blocks of SiT-S/2 on 32 x 32 latents (256 tokens).

CUDA: ours alone, cached random latents, `torch.compile`, autocast bfloat16, weights float32;
images a second, and the share of the device's dense bf16 peak that the model's operations use
(forward counted by torch's flop counter, backward twice that; AdamW and recomputation not
counted).
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentsmith.backbones.dit import DiT, SiTConfig
from latentsmith.backbones.published import from_published, to_published
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap
from plain_dit import PlainDiT

RESULTS = Path(__file__).parent / "results"
CLASSES = 1000
PEAK_TFLOPS = {"H100": 989, "H200": 989, "H800": 989, "A100": 312, "L40S": 362, "4090": 165}
"""Dense bf16 with float32 accumulation, from the vendor's data sheets."""

Step = Callable[[], Tensor]

#       width depth heads side batch
CASES = [
    (192,    6,    6,   16,   16),
    (384,    4,    6,   32,    4),
]  # fmt: skip


def data(args: argparse.Namespace, device: str) -> dict[str, Tensor]:
    """One batch; the target is what a velocity would be compared with."""
    rng = torch.Generator().manual_seed(0)
    shape = args.batch, 4, args.side, args.side
    batch = {
        "z": torch.randn(shape, generator=rng),
        "t": torch.rand(args.batch, generator=rng),
        "label": torch.randint(CLASSES, (args.batch,), generator=rng),
        "target": torch.randn(shape, generator=rng),
    }
    return {k: v.to(device) for k, v in batch.items()}


def randomize(network: nn.Module) -> None:
    """Weights a trained network could have: at zero gates half the backward would be zeros."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.02)


def make_ours(args: argparse.Namespace) -> DiT:
    """Our SiT at the asked size."""
    config = SiTConfig(size=args.size, width=args.width, depth=args.depth, heads=args.heads)
    config.patch = args.patch
    return config.build((4, args.side, args.side), CLASSES)


def make_plain(args: argparse.Namespace) -> PlainDiT:
    """The plain network of the same size."""
    width, depth, heads = make_shape(args)
    return PlainDiT(
        side=args.side,
        patch=args.patch,
        channels=4,
        width=width,
        depth=depth,
        heads=heads,
        classes=CLASSES,
        learn_sigma=False,
    )


def make_diffusers(args: argparse.Namespace) -> nn.Module:
    """diffusers' network of the same size, all blocks sharing one embedder."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    width, depth, heads = make_shape(args)
    model: Any = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=4,
        num_layers=depth,
        sample_size=args.side,
        patch_size=args.patch,
        num_embeds_ada_norm=CLASSES,
    )
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = model.transformer_blocks[0].norm1.emb
    return model


def make_shape(args: argparse.Namespace) -> tuple[int, int, int]:
    """(width, depth, heads)."""
    return SiTConfig(size=args.size, width=args.width, depth=args.depth, heads=args.heads).shape()


def networks(args: argparse.Namespace, batch: dict[str, Tensor]) -> dict[str, Step]:
    """name → one training step; ours and the plain one are checked to compute the same."""
    plain = make_plain(args)
    randomize(plain)
    ours = from_published(plain.state_dict(), "repa", heads=make_shape(args)[2]).train()
    theirs: Any = make_diffusers(args)
    randomize(theirs)
    z, t, label = batch["z"], batch["t"], batch["label"]
    same = {"ours": ours(z, t, {"label": label}).sample, "plain": plain(z, t, label)}
    torch.testing.assert_close(same["ours"], same["plain"], rtol=1e-4, atol=1e-5)
    forwards = {
        "ours": (ours, lambda: ours(z, t, {"label": label}).sample),
        "plain": (plain, lambda: plain(z, t, label)),
        "diffusers": (theirs, lambda: theirs(z, t, label).sample),
    }
    assert set(to_published(ours)) == set(plain.state_dict())
    return {name: step(net, run, batch["target"]) for name, (net, run) in forwards.items()}


def step(network: nn.Module, forward: Callable[[], Tensor], target: Tensor) -> Step:
    """Forward, mean squared error, backward, AdamW."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = (forward().float() - target).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return run


def measure_cpu(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of one step each; ``rows`` of one network."""
    batch = data(args, "cpu")
    steps = networks(args, batch)
    turns: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffle = list(steps), random.Random(0)
    for round_number in range(args.warmup + args.rounds):
        shuffle.shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if round_number >= args.warmup:
                turns[name].append(time.perf_counter() - start)
    rows = [
        {
            "network": name,
            "best_ms": 1e3 * min(times),
            "median_ms": 1e3 * statistics.median(times),
            "times_ours": statistics.median(
                a / b for a, b in zip(times, turns["ours"], strict=True)
            ),
            "rounds_ms": [1e3 * s for s in times],
        }
        for name, times in turns.items()
    ]
    title = "width {}, depth {}, {} heads, ".format(*make_shape(args))
    title += f"patch {args.patch}, latents 4 x {args.side} x {args.side}, batch {args.batch}"
    return {"title": title, "rows": rows, "load": os.getloadavg()}


def measure_cuda(args: argparse.Namespace) -> dict[str, Any]:
    """Throughput and model-FLOPs utilisation of ours."""
    batch = data(args, "cuda")
    ours = make_ours(args).cuda().train()
    randomize(ours)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        one = make_ours(args)
        label = {"label": torch.zeros(1, dtype=torch.long)}
        one(torch.zeros(1, 4, args.side, args.side), torch.zeros(1), label)
    flops = 3 * counter.get_total_flops()
    torch.set_float32_matmul_precision("high")
    compiled: Any = torch.compile(ours)

    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return compiled(batch["z"], batch["t"], {"label": batch["label"]}).sample

    run = step(ours, forward, batch["target"])
    for _ in range(args.warmup):
        run()
    times = []
    for _ in range(args.rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 10)
    seconds, name = statistics.median(times), torch.cuda.get_device_name()
    peak = next((v for k, v in PEAK_TFLOPS.items() if k in name), None)
    achieved = flops * args.batch / seconds / 1e12
    return {
        "device": name,
        "title": f"SiT-{args.size}/{args.patch}, batch {args.batch}, bf16, compiled",
        "images_per_second": args.batch / seconds,
        "tflops": achieved,
        "peak_tflops": peak,
        "utilisation": None if peak is None else achieved / peak,
        "step_ms": 1e3 * seconds,
        "forward_gmacs": flops / 6e9,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "rounds_ms": [1e3 * s for s in times],
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a document."""
    text = (
        f"# SiT training step\n\n{result['threads']} thread(s), torch {result['torch']}, diffusers "
        f"{result['diffusers']}, {result['machine']}. Made by `{result['command']}`, which says "
        "how.\n"
    )
    if result["device"] != "cpu":
        share, peak = result["utilisation"], result["peak_tflops"]
        return text + (
            f"\n{result['device']}, {result['title']}: {result['images_per_second']:.0f} images/s, "
            f"{result['step_ms']:.1f} ms a step, {result['tflops']:.0f} TFLOP/s"
            + ("" if share is None else f" = {share:.1%} of {peak} dense bf16")
            + f"; {result['memory_gib']:.1f} GiB.\n"
        )
    for case in result["cases"]:
        text += f"\n## {case['title'].capitalize()}\n\n"
        text += "| network | best ms | median ms | times ours |\n|---|---|---|---|\n"
        text += "".join(
            f"| {r['network']} | {r['best_ms']:.1f} | {r['median_ms']:.1f} "
            f"| {r['times_ours']:.2f} |\n"
            for r in case["rows"]
        )
    return text


def parse() -> argparse.Namespace:
    """Command line; what is left open follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=["S", "B", "L", "XL"])
    parser.add_argument("--width", type=int)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--side", type=int, default=32, help="of the latent")
    parser.add_argument("--batch", type=int, help="4 on CPU, 256 on CUDA")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/dit_step_*")
    args = parser.parse_args()
    cpu = args.device == "cpu"
    args.cases = CASES if cpu and not (args.size or args.width or args.batch) else []
    args.size = args.size or ("S" if cpu else "XL")
    args.batch = args.batch or (4 if cpu else 256)
    return args


def measure_cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`measure_cpu` of each of `CASES`, or of the one network asked for."""
    cases = args.cases or [(args.width, args.depth, args.heads, args.side, args.batch)]
    rows = []
    for case in cases:
        args.width, args.depth, args.heads, args.side, args.batch = case
        rows.append(measure_cpu(args))
    return rows


def main() -> None:
    """Measure, print, write."""
    import diffusers

    args = parse()
    torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA here: nothing measured")
        return
    keep_heap()
    cpu = args.device == "cpu"
    measured = {"cases": measure_cases(args)} if cpu else measure_cuda(args)
    result = {
        "device": "cpu",
        "command": f"python benchmarks/dit_step.py --device {args.device}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": platform.machine(),
        **measured,
    }
    print(markdown(result))
    if args.write:
        stem = RESULTS / f"dit_step_{args.device}"
        write_json(stem.with_suffix(".json"), result)
        with atomic_path(stem.with_suffix(".md")) as tmp:
            tmp.write_text(markdown(result))


if __name__ == "__main__":
    main()
