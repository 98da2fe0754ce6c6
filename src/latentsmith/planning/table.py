"""A plan as text, and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from latentsmith.planning.count import PartCount
from latentsmith.planning.estimate import Estimate, FigureEstimate, StageEstimate

Row = Sequence[str]


def bytes_text(count: float) -> str:
    """``12.3 GB``: powers of ten, as disks and data sheets have them."""
    for size, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return (
                f"{count / size:,.3g} {unit}"
                if count < 100 * size
                else f"{count / size:,.0f} {unit}"
            )
    return f"{count / 1e3:,.3g} kB"


def seconds_text(seconds: float) -> str:
    """``3.2 days``, ``1.5 h``, ``12 min``, ``0.4 s``, ``3 ms``, ``4 µs``."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 1.5 * size or (unit == "s" and seconds >= 0.1):
            return f"{seconds / size:,.3g} {unit}"
    return f"{1e3 * seconds:,.3g} ms" if seconds >= 1e-4 else f"{1e6 * seconds:,.3g} µs"


def count_text(count: float) -> str:
    """``859.5M``; small ones whole."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:,.4g}{unit}"
    return f"{count:,.0f}"


def flops_text(flops: float) -> str:
    """GFLOP."""
    return f"{flops / 1e9:,.1f}" if flops >= 1e9 else f"{flops / 1e9:,.3g}"


def lines(estimate: Estimate) -> Iterator[str]:
    """The printed plan."""
    setup, device = estimate.setup, estimate.setup.device
    many = "one" if setup.gpus == 1 else str(setup.gpus)
    yield (
        f"on {many} {device.name} (bfloat16 {device.bf16:,g}, float32 {device.fp32:,g} TFLOP/s, "
        f"{device.memory:g} GB, {device.bandwidth:,g} GB/s) at {setup.utilization:.0%} of its peak"
    )
    yield from (f"{name:11} {text}" for name, text in estimate.plan.facts.items())
    yield from (f"assumed     {text.strip()}" for text in estimate.plan.assumed)
    for stage in estimate.stages:
        yield ""
        yield from _stage(stage, setup.gpus)
    yield from _caches(estimate)
    yield from _totals(estimate)
    if estimate.figures:
        yield ""
        yield "the source's figures beside these, on one H200 and of as many samples:"
        for found in estimate.figures:
            yield f"  {found.figure.what}: source {found.figure.source}, here {_value(found)}"
            yield f"    {found.figure.why}"


def _value(found: FigureEstimate) -> str:
    return bytes_text(found.value) if found.unit == "B" else seconds_text(found.value)


def _stage(found: StageEstimate, gpus: int) -> Iterator[str]:
    stage, count, train = found.stage, found.count, found.stage.train
    times = f", {stage.times} times" if stage.times > 1 else ""
    steps = -(-train.samples // train.batch_size)
    yield (
        f"{stage.name}: {train.samples:,} samples = {steps:,} steps of {train.batch_size}, "
        f"{train.precision}{times}"
    )
    yield from _columns(
        [
            ("", "trains", "frozen", "GFLOP forward", "backward"),
            *map(_part, count.parts),
            _all(found),
        ]
    )
    yield (
        f"  state {bytes_text(count.weights + count.state + count.gradients)}: weights "
        f"{bytes_text(count.weights)}, AdamW{' and average' if train.ema else ''} "
        f"{bytes_text(count.state)}, gradients {bytes_text(count.gradients)}"
    )
    heads = [f"{n}{' (set)' if n == found.micro else ''}" for n in found.memory]
    yield from _columns(
        [("micro-batch", *heads), ("memory", *(bytes_text(b) for b in found.memory.values()))]
    )
    yield f"  {_advice(found)}"
    rate = train.batch_size / found.step
    yield (
        f"  {rate:,.0f} samples/s, {seconds_text(found.step)} a step, "
        f"{seconds_text(found.seconds)} in all (a sample: {seconds_text(found.at_utilization)} of "
        f"FLOPs, {seconds_text(found.unfused)} at full speed with nothing fused)"
    )


def _part(part: PartCount) -> Row:
    return (
        part.label, count_text(part.trainable), count_text(part.frozen),
        flops_text(part.forward), flops_text(part.backward),
    )  # fmt: skip


def _all(found: StageEstimate) -> Row:
    parts = found.count.parts
    trained, frozen = sum(p.trainable for p in parts), sum(p.frozen for p in parts)
    return _part(PartCount("all", trained, frozen, found.count.forward, found.count.backward))


def _advice(found: StageEstimate) -> str:
    setting, local = f"{found.stage.setting}.micro_batch", max(found.memory)
    if found.fits == 0:
        return "not even one sample fits: a GPU with more memory, or gradient_checkpointing"
    if found.fits >= found.micro:
        more = f"; up to {found.fits} would" if found.fits > found.micro else ""
        return f"fits{more}" + (f" (all {local})" if found.fits == local > found.micro else "")
    return f"does NOT fit: set {setting}={found.fits}"


def _caches(estimate: Estimate) -> Iterator[str]:
    if estimate.passes:
        yield ""
        yield "made once:"
        rows: list[Row] = [("", "parameters", "GFLOP a sample", "memory", "samples", "time")]
        for p in estimate.passes:
            rows.append((
                p.work.name, count_text(p.count.parameters), flops_text(p.count.flops),
                bytes_text(p.count.memory), "?" if p.work.rows is None else f"{p.work.rows:,}",
                "?" if p.seconds is None else seconds_text(p.seconds),
            ))  # fmt: skip
        yield from _columns(rows)
    if estimate.stores:
        yield ""
        yield "on disk:"
        rows: list[Row] = [("", "a row", "rows", "shards", "in shards", "in LMDB")]
        for s in estimate.stores:
            size = s.size
            rest = ("?",) * 4 if size is None else (
                f"{size.rows:,}", f"{size.shards:,}", bytes_text(size.total), bytes_text(size.lmdb)
            )  # fmt: skip
            rows.append((s.store.name, bytes_text(s.row), *rest))
        yield from _columns(rows)
        if any(s.size is None for s in estimate.stores):
            yield "  the settings do not say how many rows the data have: give --rows"


def _totals(estimate: Estimate) -> Iterator[str]:
    yield ""
    cost = ""
    if estimate.cost is not None:
        shown = f"{estimate.cost:,.0f}" if estimate.cost >= 100 else f"{estimate.cost:,.2f}"
        cost = f", {shown} at {estimate.setup.price:g} a GPU hour"
    gpus = estimate.setup.gpus
    hours = gpus * estimate.seconds / 3600
    yield (
        f"all: {seconds_text(estimate.seconds)} on {gpus} GPU{'s' if gpus > 1 else ''} "
        f"({hours:,.3g} GPU hours{cost}), {bytes_text(estimate.disk)} on disk with checkpoints; "
        "measuring not included"
    )


def _columns(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        yield "  " + "  ".join(cells).rstrip()


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The plan for machines: bytes, seconds, FLOPs of one sample."""
    setup = estimate.setup
    return {
        "setup": {
            "gpu": vars(setup.device), "gpus": setup.gpus, "utilization": setup.utilization,
            "price": setup.price,
        },
        "facts": dict(estimate.plan.facts),
        "assumed": list(estimate.plan.assumed),
        "stages": [_stage_json(stage) for stage in estimate.stages],
        "passes": [
            {
                "name": p.work.name, "parameters": p.count.parameters, "flops": p.count.flops,
                "memory": p.count.memory, "rows": p.work.rows, "seconds": p.seconds,
            }
            for p in estimate.passes
        ],
        "stores": [
            {"name": s.store.name, "row": s.row, "size": None if s.size is None else vars(s.size)}
            for s in estimate.stores
        ],
        "figures": [
            {
                "what": f.figure.what, "source": f.figure.source, "here": f.value,
                "unit": f.unit, "why": f.figure.why,
            }
            for f in estimate.figures
        ],
        "seconds": estimate.seconds,
        "cost": estimate.cost,
        "disk": estimate.disk,
    }  # fmt: skip


def _stage_json(found: StageEstimate) -> dict[str, Any]:
    stage, count = found.stage, found.count
    return {
        "name": stage.name, "samples": stage.train.samples, "batch_size": stage.train.batch_size,
        "precision": stage.train.precision, "times": stage.times,
        "parts": [vars(part) for part in count.parts],
        "bytes": {"weights": count.weights, "state": count.state, "gradients": count.gradients},
        "kept_for_backward": count.kept,
        "memory": found.memory, "micro_batch": found.micro, "largest_micro_batch": found.fits,
        "seconds_a_sample": {"at_utilization": found.at_utilization, "unfused": found.unfused},
        "seconds_a_step": found.step, "seconds": found.seconds, "checkpoints": found.checkpoints,
    }  # fmt: skip
