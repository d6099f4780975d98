"""Solve a symmetric system for each row of a weight, all rows at once, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from excise.errors import IllConditionedError
from excise.linalg.solves import NOT_POSITIVE, warn_of_condition


@dataclass(frozen=True)
class Pencil:
    """G(mu) = G0 + mu J for any mu, through one generalised eigendecomposition.

    G0 E = J E diag(values) and E^T J E = I, so that G(mu)^-1 = E diag(1 / (values + mu)) E^T.

    Attributes:
        E: (d, d) generalised eigenvectors, as columns.
        values: (d,) generalised eigenvalues, ascending.
    """

    E: Tensor
    values: Tensor

    def check(self, mu: float) -> None:
        """Warn if G(mu) is ill-conditioned relative to J.

        Raises:
            IllConditionedError: G(mu) is not positive definite.
        """
        low, high = (float(self.values[i]) + mu for i in (0, -1))
        if low <= 0:
            raise IllConditionedError(NOT_POSITIVE)
        warn_of_condition(high / low)


def pencil(G0: Tensor, J: Tensor | None = None) -> Pencil:
    """Return the pencil of a symmetric G0 (d, d) and a symmetric positive definite J (d, d), by default the identity.

    Raises:
        IllConditionedError: J is not positive definite.
    """
    if J is None:
        values, vectors = torch.linalg.eigh(G0)
        return Pencil(vectors, values)
    L, info = torch.linalg.cholesky_ex(J)
    if info.any():
        raise IllConditionedError(NOT_POSITIVE)
    half = torch.linalg.solve_triangular(L, G0, upper=False)
    values, Q = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mT, upper=False))
    return Pencil(torch.linalg.solve_triangular(L.mT, Q, upper=True), values)


class RowSystem:
    """x_i (G(mu) + alpha_i F F^T) = b_i for any rows, with F (d, m) shared by all.

    By Woodbury's identity, with F^T G^-1 F = Q diag(theta) Q^T, the alpha of a row enters only elementwise:

        x = b G^-1 - ((b Y) * alpha / (1 + alpha theta)) Y^T,   Y = G^-1 F Q
    """

    def __init__(self, p: Pencil, mu: float, EF: Tensor) -> None:
        """Prepare the systems of one mu.

        Args:
            p: G(mu) for any mu.
            EF: (d, m), E^T F.

        Raises:
            IllConditionedError: G(mu) is not positive definite.
        """
        p.check(mu)
        self.E, self.inverse = p.E, 1 / (p.values + mu)
        theta, Q = torch.linalg.eigh(EF.mT @ (EF * self.inverse[:, None]))
        self.theta = theta.clamp(min=0)
        self.Y = (EF * self.inverse[:, None]) @ Q  # in the coordinates of E

    def solve(self, alpha: Tensor, rhs: Tensor) -> Tensor:
        """Return (n, d) whose rows solve the systems of some rows.

        Args:
            alpha: (n,), at least 0.
            rhs: (n, d), the rows b_i times E.
        """
        shrink = alpha[:, None] / (1 + alpha[:, None] * self.theta)
        return (rhs * self.inverse - ((rhs @ self.Y) * shrink) @ self.Y.mT) @ self.E.mT
