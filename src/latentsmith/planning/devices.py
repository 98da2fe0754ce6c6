"""GPUs, from their makers' data sheets: what they could do at most."""

from dataclasses import dataclass, fields, replace

from latentsmith.errors import UserError, nearest

RESERVE = 1.0e9
"""Bytes of a GPU that no tensor gets: CUDA's context, workspaces of cuBLAS and cuDNN."""
SLACK = 1.08
"""Bytes that PyTorch's allocator takes for one that is used: blocks are rounded and split."""

LAUNCH = 5e-6
"""Seconds in which Python starts an operator, whatever its size: what small networks wait for."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        bf16, fp32: TFLOP/s of dense matrix products in bfloat16 (or float16), and in float32
            without TF32, which this library leaves off.
        memory: GB (1e9 bytes). bandwidth: GB/s.
    """

    name: str
    bf16: float
    fp32: float
    memory: float
    bandwidth: float

    def peak(self, precision: str) -> float:
        """FLOP/s in a training's precision."""
        return (self.fp32 if precision == "fp32" else self.bf16) * 1e12

    @property
    def room(self) -> float:
        """Bytes for tensors."""
        return (self.memory * 1e9 - RESERVE) / SLACK

    def floor(self, ops: list[tuple[float, float]], precision: str) -> float:
        """Seconds for operators one after another, none fused: each takes as long as its FLOPs or
        its bytes need, whichever is longer."""
        peak, speed = self.peak(precision), self.bandwidth * 1e9
        return sum(max(flops / peak, moved / speed) for flops, moved in ops)


GPUS = {
    device.name: device
    for device in (
        #      name       bf16  fp32  GB   GB/s
        Device("A100-40", 312, 19.5, 40, 1555),
        Device("A100-80", 312, 19.5, 80, 2039),
        Device("H100", 989, 67, 80, 3350),  # SXM
        Device("H200", 989, 67, 141, 4800),
        Device("B200", 2250, 75, 180, 8000),
        Device("L40S", 362, 91.6, 48, 864),
        Device("RTX4090", 165, 82.6, 24, 1008),
    )
}
"""Name → GPU, no sparsity."""


def device_named(text: str) -> Device:
    """A GPU of the table, or of the user's: ``bf16=400,fp32=50,memory=96,bandwidth=4000``, or a
    known one with changes: ``H100,memory=94``.

    Raises:
        UserError: an unknown name or entry, or a number that is none.
    """
    first, *rest = text.split(",")
    base = Device("own", 0, 0, 0, 0)
    if "=" in first:
        rest = [first, *rest]
    else:
        known = {name.lower(): device for name, device in GPUS.items()}
        if first.lower() not in known:
            raise UserError(
                f"--gpu {first}: no such GPU. {nearest(first, GPUS)} Or give your own: "
                "--gpu bf16=400,fp32=50,memory=96,bandwidth=4000 (TFLOP/s, GB, GB/s)"
            )
        base = known[first.lower()]
    device = replace(base, **dict(_entry(part) for part in rest))
    missing = [f.name for f in fields(Device)[1:] if getattr(device, f.name) <= 0]
    if missing:
        raise UserError(
            f"--gpu {text} lacks {', '.join(missing)}: bf16 and fp32 in TFLOP/s, memory in GB, "
            "bandwidth in GB/s, each above 0"
        )
    return device


def _entry(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    known = [f.name for f in fields(Device)[1:]]
    if name not in known:
        raise UserError(f"--gpu {text}: no such entry. {nearest(name, known)}")
    try:
        return name, float(value)
    except ValueError:
        raise UserError(f"--gpu {text}: {value!r} is no number") from None
