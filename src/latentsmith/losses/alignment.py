"""Alignment of a denoiser's hidden tokens with a frozen teacher's (REPA, Yu et al. 2025,
arXiv 2410.06940).

    L_align = mean over samples and tokens of 1 − cos(h_φ(h), y)

h: tokens of one block for the *noisy* latent; h_φ: a small MLP; y: the teacher's tokens of the
clean image. REPA writes −cos; the gradient is the same, and 1 − cos is 0 when aligned.

A teacher token that is all zeros (a hole in a cache) gives a loss of exactly 1 and no gradient,
quietly: such tokens are refused by name.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.errors import UserError

SHORTEST = 1e-6
"""Tokens shorter than this count as zero. Cosines are computed in float32: in float16 the norm of
a token overflows or vanishes, and the loss with it."""

UNIT = 0.02
"""How far from 1 the length of a unit token may be after storage in half precision or int8."""


def token_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosine of each token with its teacher's [B, N], in [-1, 1], float32 (or wider) whatever the
    autocast.

    Args:
        student, teacher: [B, N, D]. No gradient goes into the teacher.

    Raises:
        ValueError: shapes that do not match.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"tokens {list(student.shape)} against a teacher's {list(teacher.shape)}")
    with torch.autocast(student.device.type, enabled=False):
        return (unit(student) * unit(teacher.detach())).sum(-1)


def unit(tokens: Tensor) -> Tensor:
    """Tokens [..., D] of length 1, float32 or wider; the gradient stays bounded where a token is
    zero."""
    wide = tokens if tokens.dtype.itemsize >= 4 else tokens.float()
    return wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_min(SHORTEST)


def to_grid(tokens: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Tokens [B, h w, D] of one grid, resized to [B, H W, D] of another, as an image of D channels
    (bilinear; antialiased where it shrinks).

    Args:
        grid, wanted: (rows, columns), raster order.
    """
    if grid == wanted:
        return tokens
    image = tokens.transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
    shrinks = wanted[0] < grid[0] or wanted[1] < grid[1]
    image = F.interpolate(
        image.float(), wanted, mode="bilinear", align_corners=False, antialias=shrinks
    )
    return image.flatten(2).transpose(1, 2)


def teacher_grid(count: int, student: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of ``count`` teacher tokens, of the same aspect as the student's grid.

    Raises:
        UserError: no such grid, as when a class token was stored among them.
    """
    rows, columns = student
    tall = round((count * rows / columns) ** 0.5)
    for height in (tall, tall + 1, tall - 1):
        if height > 0 and count % height == 0 and height * columns == count // height * rows:
            return height, count // height
    raise UserError(
        f"{count} teacher tokens form no grid of the shape of the network's {rows}x{columns}: were "
        "class or register tokens stored with them, or is the image not square?"
    )


@torch.no_grad()
def check_tokens(tokens: Tensor, index: Tensor, *, unit: bool = False) -> None:
    """Refuse teacher tokens that would spoil the loss without a sound.

    Args:
        tokens: [B, N, D].
        index: number of each sample [B], for the message.
        unit: also demand length 1 (± `UNIT`).

    Raises:
        UserError: zero, NaN or infinite tokens, or of another length; names the samples.
    """
    length = torch.linalg.vector_norm(tokens.float(), dim=-1)  # [B, N]
    bad = ~((length > SHORTEST) & length.isfinite())
    if unit:
        bad |= (length - 1).abs() > UNIT
    if not bool(bad.any()):
        return
    rows = bad.any(1).nonzero().flatten()
    first, names = int(rows[0]), index[rows.to(index.device)].tolist()
    worst = float(length[first][bad[first]][0])
    more = f" (and {len(names) - 1} more of this batch)" if len(names) > 1 else ""
    want = "length 1" if unit else "finite length above 0"
    raise UserError(
        f"teacher tokens of sample {names[0]}{more}: {int(bad[first].sum())} of {bad.shape[1]} "
        f"have no {want} (the first has {worst:.3g}). The token store is damaged or was made "
        "otherwise: check it with `latentsmith cache verify`, and cache the teacher again"
    )
