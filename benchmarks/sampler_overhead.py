"""What a sampler's step costs besides the network.

    python benchmarks/sampler_overhead.py [--batch 8] [--steps 50] [--rounds 15] [--write]

The network is one multiplication, so that what is left is the loop: the bare loop (network and
z + h v), our samplers, and diffusers' schedulers with the same network, steps and grid, in turns
within one process in shuffled order, so that other load falls on all alike. Ours run as users run
them, through `Denoiser`, which turns the network's output into data and noise; the rows "ready"
take predictions made without that, so the rest is the sampler. Stochastic ones draw their noise
within the time: ours per sample, diffusers' per batch. Given are microseconds a step, the median
over rounds, and the median over rounds of (ours / the counterpart of the same round). With --write
the table and all rounds go to benchmarks/results/sampler_overhead.{md,json}.
"""

import argparse
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.base import Backbone, BackboneOutput
from latentsmith.diffusion.denoiser import Denoiser, Prediction
from latentsmith.diffusion.flow import LinearPath
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.ddpm import DdpmConfig
from latentsmith.sampling.samplers.dpmpp_2m import Dpmpp2mConfig
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.samplers.heun import HeunConfig
from latentsmith.sampling.samplers.sde import SdeConfig
from latentsmith.utils.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results"
SHAPE = (4, 32, 32)
FLOW, VP = LinearPath(), VPPathConfig().build()

Run = Callable[[], Tensor]


class Trivial(Backbone):
    """One multiplication."""

    def __init__(self, predicts: Any):
        super().__init__()
        self.predicts = predicts

    def forward(self, z: Tensor, t: Tensor, condition: Any, *, taps: Any = ()) -> BackboneOutput:
        return BackboneOutput(z * 0.1)


def bare(z: Tensor, steps: int) -> Tensor:
    """Euler's method and nothing else."""
    network = Trivial("velocity")
    for k in range(steps):
        t = torch.full((len(z),), 1 - k / steps)
        z = z - network(z, t, {}).sample / steps
    return z


def ready(path: Any) -> Callable[[Tensor, Tensor], Prediction]:
    """Predictions that cost one multiplication."""
    return lambda z, t: Prediction(z * 0.1, z, t, path)


def ours(args: argparse.Namespace, z: Tensor) -> dict[str, Run]:
    """Every sampler through a denoiser, two also with ready predictions."""
    flow, vp = Denoiser(Trivial("velocity"), FLOW).bind({}), Denoiser(Trivial("noise"), VP).bind({})
    noise = NoiseSource(0, range(args.batch))
    steps = args.steps
    known = {
        "euler": (EulerConfig(steps=steps), flow, FLOW),
        "heun": (HeunConfig(steps=steps), flow, FLOW),
        "sde": (SdeConfig(steps=steps), flow, FLOW),
        "ddim": (DdimConfig(steps=steps, spacing="leading"), vp, VP),
        "ddim, eta 1": (DdimConfig(steps=steps, spacing="leading", eta=1), vp, VP),
        "ddpm": (DdpmConfig(steps=steps, spacing="leading"), vp, VP),
        "dpmpp_2m": (Dpmpp2mConfig(steps=steps, spacing="leading"), vp, VP),
        "euler, ready": (EulerConfig(steps=steps), ready(FLOW), FLOW),
        "ddim, ready": (DdimConfig(steps=steps, spacing="leading"), ready(VP), VP),
        "dpmpp_2m, ready": (Dpmpp2mConfig(steps=steps, spacing="leading"), ready(VP), VP),
    }
    return {
        name: lambda c=config, d=denoise, p=path: c.sample(d, z, path=p, noise=noise)
        for name, (config, denoise, path) in known.items()
    }


def theirs(args: argparse.Namespace, z: Tensor) -> dict[str, Run]:
    """diffusers' schedulers, used as its pipelines use them."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
    )

    rng = torch.Generator().manual_seed(0)
    fresh, steps = {"generator": rng}, args.steps
    plain = {"clip_sample": False}
    known = {
        "euler": (FlowMatchEulerDiscreteScheduler(), "velocity", {}),
        "heun": (FlowMatchHeunDiscreteScheduler(), "velocity", {}),
        "ddim": (DDIMScheduler(**plain), "noise", {}),
        "ddim, eta 1": (DDIMScheduler(**plain), "noise", {"eta": 1.0, **fresh}),
        "ddpm": (DDPMScheduler(**plain), "noise", fresh),
        "dpmpp_2m": (DPMSolverMultistepScheduler(timestep_spacing="leading"), "noise", {}),
    }

    def loop(scheduler: Any, network: Trivial, how: dict[str, Any]) -> Tensor:
        state = z
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            out = network(state, t.expand(len(z)), {}).sample
            state = scheduler.step(out, t, state, **how, return_dict=False)[0]
        return state

    return {
        f"diffusers {name}": lambda s=scheduler, p=predicts, h=how: loop(s, Trivial(p), h)
        for name, (scheduler, predicts, how) in known.items()
    }


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, in shuffled order."""
    z = starting_noise(0, range(args.batch), SHAPE)
    runs = {"bare loop": lambda: bare(z, args.steps)} | ours(args, z) | theirs(args, z)
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for round_number in range(-args.warmup, args.rounds):
        random.Random(round_number).shuffle(order)
        for name in order:
            began = time.perf_counter()
            runs[name]()
            if round_number >= 0:
                times[name].append(1e6 * (time.perf_counter() - began) / args.steps)
    rows = []
    for name, values in times.items():
        other = times.get(f"diffusers {name}")
        over = [v - b for v, b in zip(values, times["bare loop"], strict=True)]
        ratio = other and statistics.median(v / o for v, o in zip(values, other, strict=True))
        row = {"name": name, "us": statistics.median(values), "over_bare": statistics.median(over)}
        rows.append(row | {"of_diffusers": ratio, "rounds_us": values})
    return {
        "args": vars(args),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    args = result["args"]
    lines = [
        "# Sampler overhead",
        "",
        f"Microseconds a step with a network of one multiplication; {args['batch']} latents of "
        f"{' x '.join(map(str, SHAPE))}, {args['steps']} steps, {result['threads']} thread(s), "
        f"torch {result['torch']}; median over {args['rounds']} interleaved rounds. heun's step "
        "has two forwards. ready: predictions that need no conversion from what a network says.",
        "",
        "| loop | µs a step | over the bare loop | of diffusers' |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio = "" if row["of_diffusers"] is None else f"{row['of_diffusers']:.2f}"
        lines.append(f"| {row['name']} | {row['us']:.0f} | {row['over_bare']:.0f} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write to {RESULTS.name}/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", DeprecationWarning)  # of diffusers and NumPy
    result = measure(args)
    print(table(result))
    if args.write:
        result["args"].pop("write")
        write_json(RESULTS / "sampler_overhead.json", result)
        with atomic_path(RESULTS / "sampler_overhead.md") as tmp:
            tmp.write_text(table(result))


if __name__ == "__main__":
    main()
