"""Shapes of the scans' arguments."""

from torch import Tensor

from latentsmith.errors import UserError


def check_selective(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
) -> None:
    """Raises UserError unless the shapes are those of `selective_scan`."""
    _check("x", x, "[B, L, D]", x.ndim == 3)
    batch, length, dim = x.shape
    _check("decay", decay, "[D, N]", decay.ndim == 2 and len(decay) == dim, x)
    _check("step", step, "[B, L, D]", step.shape == x.shape, x)
    _check_grouped(x, inward, outward, dim, "D")
    n = decay.shape[1]
    _check("inward", inward, f"[B, L, G, N] with N = {n} as decay", inward.shape[3] == n)
    _check("skip", skip, "[D]", skip is None or skip.shape == (dim,), x)
    _check("initial", initial, "[B, D, N]", _fits(initial, (batch, dim, n)), x)
    _check_length(length)


def check_ssd(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    skip: Tensor | None,
    initial: Tensor | None,
) -> None:
    """Raises UserError unless the shapes are those of `ssd_scan`."""
    _check("x", x, "[B, L, H, P]", x.ndim == 4)
    batch, length, heads, width = x.shape
    _check("decay", decay, "[H]", decay.shape == (heads,), x)
    _check("step", step, "[B, L, H]", step.shape == x.shape[:3], x)
    _check_grouped(x, inward, outward, heads, "H")
    _check("skip", skip, "[H]", skip is None or skip.shape == (heads,), x)
    shape = (batch, heads, width, inward.shape[3])
    _check("initial", initial, "[B, H, P, N]", _fits(initial, shape), x)
    _check_length(length)


def _check_grouped(x: Tensor, inward: Tensor, outward: Tensor, parts: int, letter: str) -> None:
    """inward and outward are [B, L, G, N] and G divides the channels or heads."""
    wanted = f"[B, L, G, N] with G dividing {letter} = {parts}"
    ok = inward.ndim == 4 and inward.shape[:2] == x.shape[:2] and parts % inward.shape[2] == 0
    _check("inward", inward, wanted, ok, x)
    same = outward.shape == inward.shape
    _check("outward", outward, f"{list(inward.shape)} as inward", same)


def _check_length(length: int) -> None:
    if length == 0:
        raise UserError("a scan over no positions (L = 0): give at least one")


def _fits(t: Tensor | None, shape: tuple[int, ...]) -> bool:
    return t is None or t.shape == shape


def _check(name: str, t: Tensor | None, wanted: str, ok: bool, x: Tensor | None = None) -> None:
    if not ok:
        beside = "" if x is None else f" beside x {list(x.shape)}"
        given = None if t is None else list(t.shape)
        raise UserError(f"scan: {name} has shape {given}{beside}; it must be {wanted}")
