"""Second moments of many text states (n much larger than d), with few products and no copy of the states."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCKS = 4  # of columns; only the products on and above the diagonal are computed, 5 of 8


def gram(rows: Tensor) -> Tensor:
    """Return rows^T rows (d, d) of rows (n, d), exactly symmetric.

    >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[1., 2.],
            [2., 5.]])
    """
    d = rows.shape[1]
    width = max(64, -(-d // BLOCKS))
    upper = rows.new_zeros(d, d)
    for i in range(0, d, width):
        upper[i : i + width, i:] = rows[:, i : i + width].mT @ rows[:, i:]
    return upper.triu() + upper.triu(1).mT


def cross(left: Tensor, rows: Tensor) -> Tensor:
    """Return left^T rows (d, d). If rows of `left` repeat, as anchors do, their partners are summed first.

    Args:
        left: (n, d).
        rows: (n, d); row i is the partner of row i of `left`.
    """
    some, which = distinct(left)
    if 2 * len(some) > len(left):
        return left.mT @ rows
    sums = rows.new_zeros(len(some), rows.shape[1]).index_add_(0, which, rows)
    return some.mT @ sums


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows (u, d) of `rows` (n, d), float64, and for each row the index of its equal, (n,).

    Rows are grouped by a hash of their bits, and the groups are verified; sorting whole rows takes many times as long.
    """
    n, d = rows.shape
    odd = torch.randint(-(2**62), 2**62, (d,), generator=torch.Generator().manual_seed(0)).to(rows.device) * 2 + 1
    # Integer arithmetic wraps around, so the sum does not depend on the order of its terms.
    hashes = [(part.view(torch.int64) * odd).sum(dim=1) for part in rows.split(4096)]
    _, which = torch.unique(torch.cat(hashes), return_inverse=True)
    first = which.new_full((int(which.max()) + 1 if n else 0,), n).scatter_reduce_(
        0, which, torch.arange(n, device=rows.device), "amin"
    )
    some = rows[first]
    if all(torch.equal(part, some[at]) for part, at in zip(rows.split(4096), which.split(4096), strict=True)):
        return some, which
    return torch.unique(rows, dim=0, return_inverse=True)  # two rows with the same hash
