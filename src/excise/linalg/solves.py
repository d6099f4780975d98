"""Symmetric solves and null spaces, in float64."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from excise.errors import ExciseWarning, IllConditionedError

# Beyond it fewer than four digits of a solution in double precision mean anything.
WORST_CONDITION = 1e12
NO_DIGITS = 1e16  # of a matrix that is positive definite only with jitter
NOT_POSITIVE = (
    "a system of equations that should be positive definite is not, its numbers are too large or too unlike; raise the "
    "method's ridge, where it has one, or check the text encoder's states."
)


def solve_spd(a: Tensor, b: Tensor) -> Tensor:
    """a^-1 b for a symmetric positive definite a (d, d) and b (d, n); jitter is added only where it is needed.

    Warns where the condition number is beyond use.

    Raises:
        IllConditionedError: a is not positive definite, even with jitter.

    >>> solve_spd(2 * torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)).T
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    scale = a.diagonal().mean()
    for jitter in (0.0, 1e-12, 1e-9):
        factor, info = torch.linalg.cholesky_ex(a + jitter * scale * torch.eye(len(a), dtype=a.dtype, device=a.device))
        if not info.any():
            diagonal = factor.diagonal()
            pivots = float((diagonal.max() / diagonal.min()) ** 2) if len(diagonal) else 1.0
            warn_of_condition(max(pivots, NO_DIGITS) if jitter else pivots)
            return torch.cholesky_solve(b, factor)
    raise IllConditionedError(NOT_POSITIVE)


def warn_of_condition(condition: float) -> None:
    """Say so where a condition number, or a lower bound of it, is beyond use."""
    if condition > WORST_CONDITION:
        warnings.warn(
            f"the system of equations is ill-conditioned (condition number above {condition:.0e}), so the edit may be "
            "noise in part; raise the method's ridge, where it has one.",
            ExciseWarning,
            stacklevel=3,
        )


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
