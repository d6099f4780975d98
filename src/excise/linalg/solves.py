"""Symmetric linear systems, null spaces and smallest singular vectors, in float64."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from excise.errors import ExciseWarning, IllConditionedError

# Beyond this condition number fewer than four digits of a float64 solution are meaningful.
WORST_CONDITION = 1e12
NO_DIGITS = 1e16  # condition number assumed for a matrix that is positive definite only with jitter
NOT_POSITIVE = (
    "a system of equations that should be positive definite is not, its numbers are too large or too unlike; raise the "
    "method's ridge, where it has one, or check the text encoder's states."
)


def solve_spd(a: Tensor, b: Tensor) -> Tensor:
    """Return a^-1 b (d, n) for a symmetric positive definite a (d, d) and b (d, n).

    Adds jitter to the diagonal only if a is not positive definite without it. Warns if a is ill-conditioned.

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
    """Warn (ExciseWarning) if a condition number, or a lower bound of it, is above `WORST_CONDITION`."""
    if condition > WORST_CONDITION:
        warnings.warn(
            f"the system of equations is ill-conditioned (condition number above {condition:.0e}), so the edit may be "
            "noise in part; raise the method's ridge, where it has one.",
            ExciseWarning,
            stacklevel=3,
        )


def null_space(moment: Tensor, threshold: float) -> Tensor:
    """Return the eigenvectors (d, q) of a symmetric `moment` (d, d) whose eigenvalue is below `threshold`, orthonormal.

    `eigh` sorts eigenvalues in ascending order, so the result is a leading slice of its eigenvectors.
    """
    values, vectors = torch.linalg.eigh(moment)
    return vectors[:, : int((values < threshold).sum())]


def weakest_direction(weight: Tensor) -> Tensor:
    """Return the right singular vector (d,) of the smallest singular value in the reduced SVD of `weight` (n, d).

    For n < d this is the n-th vector, not one of the null space, as in SPEED's published program. Its sign is fixed:
    the entry of largest magnitude is positive.
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
