"""Which of the objects in a picture is the asked one? Pictures do not number their objects.

Whatever lies in an asked cell is the object asked there; without a cell (captions that leave the
place out, cells found empty) objects go where most of what is asked is right, then where the
relation is.
"""

import torch
from torch import Tensor

from latentsmith.metrics.shapes_judge.tables import RELATIONS

PARTS: tuple[str, ...] = ("shape", "color", "size", "position", "background", "count", "relation")
"""What can be right or wrong in a picture."""


def match(found: Tensor, asked: Tensor) -> Tensor:
    """The object found for each asked slot: int64 [N, 2], its row in ``found``; 0: none.

    Args:
        found: tables [N, 1 + K, 4] by cell or slot. asked: [N, 3, 4] by slot.
    """
    scores = torch.stack([_scores(found[:, 1:], asked[:, slot]) for slot in (1, 2)], 1)
    count = scores.shape[2]
    # two more candidates, "none" for either slot: worse than any object, if one is asked
    none = torch.where((asked[:, 1:] >= 0).any(2), -0.5, 0.0)[:, :, None].expand(-1, -1, 2)
    scores = torch.cat([scores, none], 2)  # [N, 2, K + 2]
    first, second = torch.ones(count + 2, count + 2).fill_diagonal_(0).nonzero().unbind(1)
    rows = torch.arange(1, count + 3)
    rows[count:] = 0
    first, second, rows = (x.to(found.device) for x in (first, second, rows))
    total = scores[:, 0, first] + scores[:, 1, second]  # [N, pairs]
    pairs = torch.stack([rows[first], rows[second]], 1)
    # less than any attribute is worth
    total = total + 0.25 * holds(found, pairs.expand(len(found), -1, -1), asked[:, None, 0, 2])
    return pairs[total.argmax(1)]


def _scores(objects: Tensor, asked: Tensor) -> Tensor:
    """How well each found object [N, K, 4] fits an asked one [N, 4]: [N, K]."""
    worth = torch.tensor([1.0, 1.0, 1.0, 100.0], device=objects.device)
    right = (objects == asked[:, None]) & (asked[:, None] >= 0)
    fits = (right * worth).sum(2)
    usable = (objects[:, :, 0] >= 0) & (asked[:, None] >= 0).any(2)
    return torch.where(usable, fits, -1000.0)


def holds(found: Tensor, pairs: Tensor, relation: Tensor) -> Tensor:
    """Whether pairs of found objects stand in the asked relation: bool [N, P].

    The sentence must be true of the picture: "to the left of" is a smaller column, "above" a
    smaller row, however large the other difference.

    Args:
        found: tables [N, 1 + K, 4]. pairs: rows of first and second [N, P, 2], 0 for none.
        relation: index into `RELATIONS` or -1 [N, P or 1].
    """
    cells = found[:, :, 3].gather(1, pairs.flatten(1)).view(pairs.shape)
    there = (pairs > 0).all(2) & (cells >= 0).all(2)
    row, col = cells // 3, cells % 3
    true = torch.stack(
        [
            col[..., 0] < col[..., 1],
            col[..., 0] > col[..., 1],
            row[..., 0] < row[..., 1],
            row[..., 0] > row[..., 1],
        ]
    )
    kinds = torch.arange(len(RELATIONS), device=found.device).view(-1, 1, 1)
    return (true & (relation == kinds)).any(0) & there


def rows_of(found: Tensor, chosen: Tensor) -> Tensor:
    """The objects [N, 2, 4] that `match` chose; all -1 for none."""
    picked = found.gather(1, chosen[:, :, None].expand(-1, -1, 4))
    return torch.where(chosen[:, :, None] > 0, picked, -1)


def verdicts(found: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Which of `PARTS` are right, and which were asked: bool [N, 7] each.

    An attribute is right when it is in all objects of which it was asked.
    """
    chosen = match(found, asked)
    objects, wanted = rows_of(found, chosen), asked[:, 1:]
    right = ((objects == wanted) | (wanted < 0)).all(1)  # [N, 4]
    there = (wanted >= 0).any(1)
    count = (found[:, 1:, 0] >= 0).sum(1)
    relation = holds(found, chosen[:, None], asked[:, 0, 2:3])[:, 0]
    whole = [found[:, 0, 0] == asked[:, 0, 0], count == asked[:, 0, 1], relation]
    return (
        torch.cat([right, torch.stack(whole, 1)], 1),
        torch.cat([there, asked[:, 0, :3] >= 0], 1),
    )
