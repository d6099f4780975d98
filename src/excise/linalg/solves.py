"""Symmetric solves and null spaces, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_spd(a: Tensor, b: Tensor) -> Tensor:
    """a^-1 b for a symmetric positive definite a (d, d) and b (d, n); jitter is added only where it is needed.

    >>> solve_spd(2 * torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)).T
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    scale = a.diagonal().mean()
    for jitter in (0.0, 1e-12, 1e-9):
        factor, info = torch.linalg.cholesky_ex(a + jitter * scale * torch.eye(len(a), dtype=a.dtype, device=a.device))
        if not info.any():
            return torch.cholesky_solve(b, factor)
    return torch.linalg.lstsq(a, b).solution


def null_space(moment: Tensor, threshold: float) -> Tensor:
    """Orthonormal columns (d, q) spanning the eigenvectors of a symmetric `moment` with eigenvalue below `threshold`.

    Eigenvalues are sorted upwards by `eigh`, so the result is a leading slice of its eigenvectors.
    """
    values, vectors = torch.linalg.eigh(moment)
    return vectors[:, : int((values < threshold).sum())]


def weakest_direction(weight: Tensor) -> Tensor:
    """The right singular vector (d,) of the smallest singular value of `weight` (n, d) in its reduced SVD.

    For n < d this is the n-th vector, not one of the true null space (as the reduced SVD of SPEED's program has it).
    Its sign is fixed: the entry of largest size is positive.
    """
    n, d = weight.shape
    if n < d:
        _, left = torch.linalg.eigh(weight @ weight.mT)
        vector = weight.mT @ left[:, 0]
        vector = vector / vector.norm()
    else:
        _, right = torch.linalg.eigh(weight.mT @ weight)
        vector = right[:, 0]
    return vector * vector[vector.abs().argmax()].sign()
