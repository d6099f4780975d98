"""SPEED: closed-form erasure inside the null space of retained states.

Paper:      Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026,
            arXiv 2503.07392
Provenance: written from the paper and from the published behaviour of the official program (Apache-2.0)

For one projection W, with C1 the targets, C* their anchors (columns), C0 retained states, K the invariant states:

    min_D |(W + D P) C1 - W C*|^2 / k + r |D P|^2   subject to  (D P) K = 0,   P onto the null space of C0 C0^T

    T = C1 C1^T / k,   S = (C* - C1) C1^T / k,   P = Q Q^T,   H = Q (Q^T T Q + r I)^-1 Q^T
    D P = W S [H - H K (K^T H K + lambda I)^-1 K^T H]

The null space differs from layer to layer, because two refinements of C0 depend on W: influence-based prior filtering
(IPF) selects the retained states that an unconstrained erasure would change most; directed prior augmentation (DPA)
adds neighbours of them along the weakest direction of W.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank
from excise.errors import ExciseWarning
from excise.linalg.kmeans import kmeans
from excise.linalg.low_rank import compress
from excise.linalg.moments import cross, gram
from excise.linalg.row_space import Ridge, few, strong_directions
from excise.linalg.solves import null_space, solve_spd, weakest_direction
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.speed_config import SPEEDConfig
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.solution import Solution


@dataclass(frozen=True)
class _Shared:
    """Terms shared by all layers: S = left @ right, T = Z^T Z, and the influence probe S (I + T)^-1."""

    left: Tensor  # (d, r)
    right: Tensor  # (r, d)
    Z: Tensor  # (k, d), rows c / sqrt(k)
    probe_right: Tensor  # (r, d)
    image: Tensor  # (M, r), retained states times probe_right^T
    K: Tensor  # (d, q)


@dataclass(frozen=True)
class Null:
    """Directions without weight in a retain moment, as they are or by those that are left.

    Attributes:
        basis: (d, q) orthonormal.
        left_out: whether `basis` spans the directions with weight instead, the null space being the rest.
    """

    basis: Tensor
    left_out: bool = False

    @property
    def room(self) -> bool:
        """Whether the null space has any direction."""
        return self.left_out or self.basis.shape[1] > 0

    def project(self, rows: Tensor) -> Tensor:
        """What of some rows (n, d) lies in the null space."""
        inside = (rows @ self.basis) @ self.basis.mT
        return rows - inside if self.left_out else inside


@dataclass(frozen=True)
class Copies:
    """What directed copies c + g v add to the moment of rows c, their g ~ N(0, 1) and v the weakest direction of W."""

    weights: Tensor  # (n, 1) of each row: itself and its copies
    lean: Tensor  # (n,) the sum of the copies' g
    square: Tensor  # the sum of all g^2
    v: Tensor  # (d,)


@dataclass(frozen=True)
class Retained:
    """Retained states R of one projection, n rows, which stand for `count` with their copies.

    moment = (R^T diag(weights) R + u v^T + v u^T + square v v^T) / count,   u = R^T lean
    """

    rows: Tensor
    count: Tensor | int
    copies: Copies | None = None

    def moment(self) -> Tensor:
        """The mean second moment (d, d)."""
        R, copies = self.rows, self.copies
        if copies is None:
            return R.mT @ R / self.count
        mixed = torch.outer(R.mT @ copies.lean, copies.v)
        moment = (R * copies.weights).mT @ R + mixed + mixed.mT
        moment += copies.square * torch.outer(copies.v, copies.v)
        return moment / self.count

    def null(self, threshold: float) -> Null:
        """The directions in which the moment is below `threshold`."""
        R, copies, n = self.rows, self.copies, len(self.rows)
        if not few(n + 1, R.shape[1]):
            return Null(null_space(self.moment(), threshold))
        form = torch.eye(n, dtype=R.dtype, device=R.device)
        if copies is not None:
            R = torch.cat([R, copies.v[None]])
            form = torch.diag(torch.cat([copies.weights[:, 0], copies.square[None]]))
            form[:n, n] = form[n, :n] = copies.lean
        return Null(strong_directions(R, form / self.count, threshold), left_out=True)


class SPEED(ClosedForm[SPEEDConfig]):
    """SPEED: one delta for each projection, inside the null space of retained states."""

    Config = SPEEDConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: SPEEDConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one delta for each of `weights`, in float64.

        `generator` (on the CPU) draws the augmentation and the start of k-means.
        """
        shared = _prepare(problem, config, generator)
        modules: dict[str, Delta] = {}
        null: Null | None = None
        full = 0  # layers without a null space
        for path, weight in weights.items():
            W = weight.double()
            per_layer = config.filter or config.augment == "directed"
            if null is None or per_layer:
                null = retained(problem.retain, W, shared, config, generator).null(config.threshold)
            if not null.room:
                full += 1
            modules[path] = _thin(W @ shared.left, through_bracket(shared.right, null, shared, config), weight)
        if 0 < full < len(weights):  # of all layers the base class speaks
            _warn_of_no_room(full, len(weights), config.threshold)
        return Solution(modules=modules)

    def advice(self, problem: TextProblem, config: SPEEDConfig) -> str:
        """As in the base class; the threshold has to pass the weakest directions of what is retained."""
        values = torch.linalg.eigvalsh(gram(problem.retain) / max(1, len(problem.retain)))
        return (
            f"preserve fewer names or raise --set threshold=..., which is {config.threshold:g} here, where a tenth of "
            f"the directions of what is retained lies below {float(values[len(values) // 10]):.2g}"
        )


def _thin(b: Tensor, a: Tensor, weight: Tensor) -> Delta:
    """The change b a as two factors, or as one matrix where that is smaller (many concepts give full rank)."""
    if b.numel() + a.numel() < weight.numel():
        return LowRank(b, a)
    return Dense((b @ a).to(weight.dtype if weight.dtype == torch.float64 else torch.float32))


def _warn_of_no_room(full: int, layers: int, threshold: float) -> None:
    """Warn of layers where retained states leave no direction to erase in; these layers do not change."""
    warnings.warn(
        f"what is retained uses every direction of text space above threshold {threshold:g} in {full} of {layers} "
        "layers, so nothing is erased there; raise --set threshold=..., or preserve fewer names.",
        ExciseWarning,
        stacklevel=3,
    )


def _prepare(problem: TextProblem, config: SPEEDConfig, generator: torch.Generator) -> _Shared:
    k = problem.prompts if config.mean == "prompts" and problem.prompts else len(problem.targets)
    Z = problem.targets / k**0.5
    if len(problem.targets) > problem.targets.shape[1]:  # more tokens than directions
        S = (cross(problem.anchors, problem.targets) - gram(problem.targets)) / k
        left, right = compress(S, torch.eye(len(S), dtype=S.dtype, device=S.device))
    else:
        left, right = compress((problem.anchors - problem.targets).mT / k, problem.targets)
    K = invariant_states(problem, config.invariants, generator)
    if few(*Z.shape):
        probe_right = Ridge(Z, 1.0).through(right)
    else:
        T1 = Z.mT @ Z
        T1.diagonal().add_(1.0)
        probe_right = solve_spd(T1, right.mT).mT
    return _Shared(left, right, compress_rows(Z), probe_right, problem.retain @ probe_right.mT, K)


def compress_rows(Z: Tensor) -> Tensor:
    """At most d rows with the same Gram matrix Z^T Z."""
    return torch.linalg.qr(Z, mode="r").R if len(Z) > Z.shape[1] else Z


def invariant_states(problem: TextProblem, count: int, generator: torch.Generator) -> Tensor:
    """K (d, q): the start token, and `count` - 1 k-means centroids of the empty prompt's other states."""
    if count == 0:
        return problem.start[:, None][:, :0]
    rows = [problem.start[None]]
    if count > 1:
        rows.append(kmeans(problem.null, count - 1, generator))
    return torch.cat(rows).mT


def retained(retain: Tensor, W: Tensor, shared: _Shared, config: SPEEDConfig, generator: torch.Generator) -> Retained:
    """The retained states of one projection, after filtering and augmentation.

    Directed augmentation adds v v^T z to a row, which is g v with g = v^T z; so no copy is ever made.
    """
    probe = W @ shared.left  # influence of c is |probe (probe_right c)|, the change an unconstrained erasure makes
    squares = probe.mT @ probe
    image = shared.image
    norms = _quadratic(image, squares)
    R = retain
    if config.filter and len(retain):
        influential = norms.sqrt() > norms.sqrt().mean()
        if not influential.any():  # all are equal
            influential = torch.ones_like(influential)
        R, image, norms = retain[influential], image[influential], norms[influential]
    if config.augment == "none" or not len(R):
        return Retained(R, max(1, len(R)))
    if config.augment == "random":
        noise = torch.randn((len(R) * config.draws, R.shape[1]), generator=generator, dtype=R.dtype).to(R.device)
        copies = R.repeat_interleave(config.draws, dim=0) + noise
        influence = _quadratic(copies @ shared.probe_right.mT, squares).sqrt().view(len(R), config.draws)
        every = torch.cat([R, copies[_above_chunk_mean(influence, config.chunk).flatten()]])
        return Retained(every, len(every))
    v = weakest_direction(W)
    g = torch.randn((len(R), config.draws), generator=generator, dtype=R.dtype).to(R.device)
    step = shared.probe_right @ v  # (r,)
    slope, square = image @ (squares @ step), step @ squares @ step
    influence = (norms[:, None] + 2 * g * slope[:, None] + g**2 * square).clamp(min=0).sqrt()
    chosen = _above_chunk_mean(influence, config.chunk).to(R)
    directed = Copies(1 + chosen.sum(dim=1, keepdim=True), (g * chosen).sum(dim=1), (g**2 * chosen).sum(), v)
    return Retained(R, len(R) + chosen.sum(), directed)


def through_bracket(rows: Tensor, null: Null, shared: _Shared, config: SPEEDConfig) -> Tensor:
    """`rows` (r, d) times H - H K (K^T H K + lambda I)^-1 K^T H, for a null space."""
    both, Q = torch.cat([rows, shared.K.mT]), null.basis
    if null.left_out:
        H = Ridge(null.project(shared.Z), config.ridge).through(null.project(both))
    else:
        Zq = shared.Z @ Q
        inner = Zq.mT @ Zq
        inner.diagonal().add_(config.ridge)
        H = solve_spd(inner, (both @ Q).mT).mT @ Q.mT
    rows_H, K_H = H[: len(rows)], H[len(rows) :]
    core = K_H @ shared.K
    core.diagonal().add_(config.invariant_slack)
    # The pseudo-inverse skips invariants outside of the null space, which need no constraint.
    inverse = torch.linalg.pinv(core, hermitian=True, atol=1e-12 * float(shared.K.square().sum()))
    return rows_H - (rows_H @ shared.K) @ inverse @ K_H


def _quadratic(rows: Tensor, form: Tensor) -> Tensor:
    """x^T form x of each row, (M,), never negative."""
    return ((rows @ form) * rows).sum(dim=1).clamp(min=0)


def _above_chunk_mean(influence: Tensor, chunk: int) -> Tensor:
    """(M, draws) booleans: above the mean of their chunk of rows."""
    return torch.cat([part > part.mean() for part in influence.split(chunk)])
