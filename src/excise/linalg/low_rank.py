"""Low-rank products in factored form: reduce the factors to the product's numerical rank."""

from __future__ import annotations

import torch
from torch import Tensor


def compress(U: Tensor, V: Tensor, tolerance: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Return factors of the product U V with as many columns as its numerical rank.

    Args:
        U: (m, r). r may exceed m and n.
        V: (r, n).
        tolerance: singular values below this share of the largest are dropped.

    Returns:
        (m, rank) and (rank, n), balanced: each factor carries the square root of the singular values.
    """
    Qu, Ru = torch.linalg.qr(U)
    Qv, Rv = torch.linalg.qr(V.mT)
    left, S, right = torch.linalg.svd(Ru @ Rv.mT, full_matrices=False)
    rank = max(1, int((tolerance * S[0] < S).sum())) if len(S) else 0
    root = S[:rank].sqrt()
    return (Qu @ left[:, :rank]) * root, root[:, None] * (right[:rank] @ Qv.mT)
