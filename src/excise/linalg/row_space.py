"""Systems of a few rows in many dimensions, solved among the rows instead of in the dimensions; float64.

Text of large decoders has thousands of dimensions (15,360 in FLUX.2), a request some hundred states. A symmetric matrix
lambda I + R^T R of n rows R (n, d) is then never formed: it does nothing but scale outside of their span, and inside
of it n x n systems suffice.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from excise.linalg.moments import gram
from excise.linalg.solves import solve_spd

WIDE = 4096  # dimensions below which the systems of dimensions are quick enough


def few(rows: int, width: int) -> bool:
    """Whether systems of so many rows in so many dimensions are solved among the rows."""
    return width >= WIDE and rows < width


class Ridge:
    """H = (ridge I + R^T R)^-1 of rows R (n, d), without any matrix of d x d.

        R H = (ridge I + R R^T)^-1 R,   b H = (b - b R^T (ridge I + R R^T)^-1 R) / ridge   (Woodbury's identity)

    >>> R = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    >>> Ridge(R, 1.0).through(torch.ones(1, 3, dtype=torch.float64))
    tensor([[0.5000, 1.0000, 1.0000]], dtype=torch.float64)
    """

    def __init__(self, rows: Tensor, ridge: float) -> None:
        """Prepare the system of `rows` (n, d), for a `ridge` above 0."""
        self.rows, self.ridge = rows, ridge

    @cached_property
    def _core(self) -> Tensor:
        core = gram(self.rows.mT)
        core.diagonal().add_(self.ridge)
        return core

    def own(self, first: int) -> Tensor:
        """The `first` rows of R, times H; as exact as a solve, for nothing cancels."""
        some = torch.eye(len(self.rows), first, dtype=self.rows.dtype, device=self.rows.device)
        return solve_spd(self._core, some).mT @ self.rows

    def through(self, b: Tensor) -> Tensor:
        """Rows b (m, d), times H."""
        if not len(self.rows):
            return b / self.ridge
        return (b - solve_spd(self._core, self.rows @ b.mT).mT @ self.rows) / self.ridge


def span(*rows: Tensor) -> Tensor:
    """Orthonormal columns (d, n) whose span holds some rows, each (., d) and n of them in all, fewer than d."""
    return torch.linalg.qr(torch.cat(rows).mT).Q


def strong_directions(rows: Tensor, form: Tensor, threshold: float) -> Tensor:
    """Eigenvectors (d, k) of rows^T form rows whose eigenvalue is not below `threshold`, orthonormal.

    Args:
        rows: (n, d), n below d. form: (n, n), symmetric.
        threshold: above 0, so that all that is orthogonal to the rows is below it.
    """
    Q, R = torch.linalg.qr(rows.mT)
    values, vectors = torch.linalg.eigh(R @ form @ R.mT)
    return Q @ vectors[:, values >= threshold]
