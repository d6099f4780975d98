"""Second moments of text states, many more than they are wide: each product once, and no copy of the states."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCKS = 4  # of columns; of their products those above the diagonal are made, 5 of 8


def gram(rows: Tensor) -> Tensor:
    """rows^T rows (d, d), symmetric to the bit.

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
    """left^T rows (d, d). Where rows of `left` repeat, as anchors do, what belongs to the same one is summed first.

    Args:
        left, rows: (n, d), row by row.
    """
    some, which = distinct(left)
    if 2 * len(some) > len(left):
        return left.mT @ rows
    sums = rows.new_zeros(len(some), rows.shape[1]).index_add_(0, which, rows)
    return some.mT @ sums


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows (u, d) of `rows` (n, d) in double precision, and which of them each is, (n,).

    Found by a hash of their bits, and checked; sorting whole rows takes many times as long.
    """
    n, d = rows.shape
    odd = torch.randint(-(2**62), 2**62, (d,), generator=torch.Generator().manual_seed(0)).to(rows.device) * 2 + 1
    # Integer products wrap around, so that their sum is the same in whatever order it is taken.
    hashes = [(part.view(torch.int64) * odd).sum(dim=1) for part in rows.split(4096)]
    _, which = torch.unique(torch.cat(hashes), return_inverse=True)
    first = which.new_full((int(which.max()) + 1 if n else 0,), n).scatter_reduce_(
        0, which, torch.arange(n, device=rows.device), "amin"
    )
    some = rows[first]
    if all(torch.equal(part, some[at]) for part, at in zip(rows.split(4096), which.split(4096), strict=True)):
        return some, which
    return torch.unique(rows, dim=0, return_inverse=True)  # two rows with the same hash
