"""ScaPre: many concepts at once in closed form, each row of each projection weighted by its relevance to them.

Paper:      Deng et al., "ScaPre: Scalable Precise Concept Unlearning", ICLR 2026, arXiv 2601.06162
Provenance: written from the paper's abstract, second-hand accounts of its equations and the published behaviour of the
            official programs (MIT); where these differ, each is a `form`. Our additions are marked as ours.

With O the target tokens and N their anchors (rows), C the concepts' subject tokens (columns), Pi the projector onto
their span, R retained states, w_i a row of a projection W and m_ik the relevance of concept k to it:

    scale   w_i' (G + alpha_i Pi) = (lambda + mu) w_i + s sum_k m_ik w_i N_k^T O_k,   alpha_i = s max_k m_ik
            G = (lambda + mu) I + gate + C C^T + s O^T O;   then each row is pulled back towards its old direction
    small   W' (lambda I + C C^T + s O^T O) = lambda W + s sum_k diag(m_k) W N_k^T O_k - e W P C (P C)^T;
            then part of each row's change is undone, by its entropy
    paper   diag(alpha) W' + W' (lambda I + gate + s O^T O) = lambda W + s W N^T O;   then pulled back along the Bures
            geodesic of W W^T

The entropy of a projection's outputs sets mu; the gate damps the weak spectral directions of C. `scale` is the official
program for many concepts, `small` the one for few. Ours: the retain term (K = p (T / M) R^T R on the left and W K on
the right, for T target and M retained tokens, so that one p suits few concepts and many), `cosine` relevance, and
`elsewhere="own"`, where rows of little relevance to a concept keep their own output for it instead of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from excise.edits.deltas import Delta, Dense
from excise.linalg.moments import cross, distinct, gram
from excise.linalg.row_space import few, span
from excise.linalg.rows import Pencil, RowSystem, pencil
from excise.linalg.solves import solve_spd
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.informax import Noisy, cosine, entropy, mutual_information, soft_mask
from excise.methods.closed_form.scapre_config import ScaPreConfig
from excise.methods.closed_form.text_problem import TextProblem, retain_weight
from excise.methods.solution import Solution

_ROWS = 128  # solved at once: more take more memory, fewer are slow
_CONCEPTS = 4  # whose tokens are visited at once
_FEW = 0.1  # share of a mask's entries below which they are visited one by one


@dataclass(frozen=True)
class _Shared:
    """Terms shared by all projections.

    Every matrix of a system does nothing but scale outside of the span of targets, subjects and retained states. Where
    these are few and text is wide, systems are written in c coordinates of that span; otherwise c is d.
    """

    problem: TextProblem
    Q: Tensor | None  # (d, c) the span; None for all of text space
    targets: Tensor  # (T, c)
    C: Tensor  # (c, m)
    U: Tensor  # (c, r) left singular vectors of C
    gate: Tensor  # (r,) sigmoid gate of its singular values
    F: Tensor  # (c, m), Pi = F F^T
    empty: Tensor  # (d,) state of the empty prompt, for the relevance
    anchors: Tensor  # (a, d) distinct anchor rows
    anchor_of: Tensor  # (T,) index of the anchor of each target row
    retain: Tensor  # (c, c), K = p (T / M) R^T R

    @cached_property
    def ends(self) -> list[int]:
        """Where the target tokens of each concept end; they stand in the order of their concepts."""
        return self.problem.owner.bincount(minlength=len(self.problem.subjects)).cumsum(0).tolist()

    def tokens_of(self, concepts: slice) -> slice:
        """The target tokens of consecutive concepts."""
        return slice(self.ends[concepts.start - 1] if concepts.start else 0, self.ends[concepts][-1])

    def through_anchors(self, W: Tensor) -> Tensor:
        """W sum_k N_k^T O_k, (n, c) for W (n, d)."""
        if self.Q is None:
            return W @ self._moment
        sums = self.targets.new_zeros(len(self.anchors), self.targets.shape[1])
        return (W @ self.anchors.mT) @ sums.index_add_(0, self.anchor_of, self.targets)

    @cached_property
    def _moment(self) -> Tensor:
        return cross(self.problem.anchors, self.problem.targets)

    def inside(self, rows: Tensor) -> Tensor:
        """Coordinates (n, c) of rows (n, d)."""
        return rows if self.Q is None else rows @ self.Q

    def whole(self, edited: Tensor, rows: Tensor, share: Tensor | None = None) -> Tensor:
        """Rows (n, d) from their edited coordinates (n, c).

        Args:
            rows: (n, d) before the edit.
            share: (n, 1) of them that is left outside of the span, all if missing.
        """
        if self.Q is None:
            return edited
        left = rows if share is None else share * rows
        return torch.addmm(left, edited - left @ self.Q, self.Q.mT)


class ScaPre(ClosedForm[ScaPreConfig]):
    """ScaPre: one dense delta for each projection."""

    target_becomes = "nothing"
    Config = ScaPreConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: ScaPreConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one delta for each of `weights`, in float64.

        `generator` (on the CPU) draws the noise under which rows are scored.
        """
        shared = _prepare(problem, config)
        forms: dict[str, type[_Scale] | type[_Small] | type[_Paper]]
        forms = {"scale": _Scale, "small": _Small, "paper": _Paper}
        system = forms[config.form](shared, config)
        # In single precision unless the weight is double, because deltas for all weights are as large as the model.
        # All are allocated before the first solve, which would otherwise fragment the memory.
        deltas = {
            path: torch.empty_like(w, dtype=w.dtype if w.dtype == torch.float64 else torch.float32)
            for path, w in weights.items()
        }
        for path, weight in weights.items():
            W = weight.double()
            deltas[path].copy_(system.edited(W, generator).sub_(W))
        modules: dict[str, Delta] = {path: Dense(delta) for path, delta in deltas.items()}
        return Solution(modules=modules)


def _prepare(problem: TextProblem, config: ScaPreConfig) -> _Shared:
    if (problem.owner.diff() < 0).any():
        order = problem.owner.argsort(stable=True)
        targets, anchors, owner = (x[order] for x in (problem.targets, problem.anchors, problem.owner))
        problem = replace(problem, targets=targets, anchors=anchors, owner=owner)
    Q = _span(problem, config)
    targets, subjects, retain = (
        rows if Q is None else rows @ Q for rows in (problem.targets, problem.subjects, problem.retain)
    )
    C = subjects.mT
    U, S, _ = torch.linalg.svd(C, full_matrices=False)
    anchors, anchor_of = distinct(problem.anchors)
    gate = torch.sigmoid((S - S.median()) / config.gate_temperature) ** config.gate_power
    squared = S.square()
    return _Shared(
        problem,
        Q,
        targets,
        C,
        U,
        gate,
        U * (squared / (squared + 1e-8)).sqrt(),  # Pi = C (C^T C + 1e-8 I)^-1 C^T
        problem.null[0] if len(problem.null) else problem.start,
        anchors,
        anchor_of,
        retain_weight(problem, config.retain_scale, True) * gram(retain),
    )


def _span(problem: TextProblem, config: ScaPreConfig) -> Tensor | None:
    """(d, c) the span of all that is in the systems; None where it is no smaller than text space, or that is narrow."""
    parts = [problem.targets, problem.subjects, *([problem.retain] if config.retain_scale else [])]
    return span(*parts) if few(sum(map(len, parts)), problem.targets.shape[1]) else None


def relevance(W: Tensor, shared: _Shared, config: ScaPreConfig, generator: torch.Generator) -> Tensor | None:
    """(n, m) in [0, 1]: the relevance of each concept to each row of W (n, d); None stands for all ones."""
    concepts = shared.problem.subjects
    if config.relevance == "none":
        return None
    if config.relevance == "cosine":
        return cosine(W, concepts, shared.empty) ** config.power
    concept, empty = (
        Noisy.draw(states, len(concepts), config.copies, config.noise, generator)
        for states in (concepts, shared.empty[None])
    )
    information = mutual_information(W, concept, empty)
    if config.relevance == "ratio":
        return information / information.amax().clamp(min=1e-300)
    return soft_mask(information, config.temperature, config.power)


def largest_relevance(m: Tensor | None, W: Tensor) -> Tensor:
    """(n,) the largest relevance of each row."""
    return W.new_ones(len(W)) if m is None else m.amax(dim=1)


def anchor_term(W: Tensor, m: Tensor | None, shared: _Shared, config: ScaPreConfig) -> Tensor:
    """s sum_k m_ik w_i N_k^T O_k for each row of W (n, d): s ((W N^T) * m) O, in coordinates (n, c).

    Args:
        m: relevance (n, m), or None for all ones.
    """
    if m is None:
        return shared.through_anchors(config.erase_scale * W)
    if config.elsewhere == "zero":
        common = m.mode(dim=0).values
        if (m != common).count_nonzero() < _FEW * m.numel():
            return _common_and_apart(W, common, m - common, shared).mul_(config.erase_scale)
    p = shared.problem

    def weighed(rows: Tensor, some: slice) -> Tensor:
        read, mask = (rows @ shared.anchors.mT)[:, shared.anchor_of], m[some][:, p.owner]
        read = (rows @ p.targets.mT).lerp_(read, mask) if config.elsewhere == "own" else read.mul_(mask)
        return read @ shared.targets

    return by_rows(W, weighed, shared.targets.shape[1]).mul_(config.erase_scale)


def _common_and_apart(W: Tensor, common: Tensor, apart: Tensor, shared: _Shared) -> Tensor:
    """((W N^T) * (common + apart)) O, where few of `apart` (n, m) are not zero.

    The program's masks saturate: nearly all rows have one and the same relevance to a concept. What they have in
    common is one product in the anchors; of a few concepts at a time, only the rows that are apart are visited.
    """
    p, read, width = shared.problem, W @ shared.anchors.mT, shared.targets.shape[1]
    sums, term = W.new_zeros(len(shared.anchors), width), W.new_zeros(len(W), width)
    for first in range(0, len(common), _CONCEPTS):
        concepts = slice(first, first + _CONCEPTS)
        tokens = shared.tokens_of(concepts)
        anchors, owners, targets = shared.anchor_of[tokens], p.owner[tokens] - first, shared.targets[tokens]
        distinct_here, place = anchors.unique(return_inverse=True)
        grouped = W.new_zeros(len(distinct_here), len(place))
        grouped[place, torch.arange(len(place), device=W.device)] = common[concepts][owners]
        sums[distinct_here] += grouped @ targets
        rows = apart[:, concepts].any(dim=1).nonzero(as_tuple=True)[0]
        weights = read[rows[:, None], anchors].mul_(apart[rows, concepts][:, owners])
        term[rows] += weights @ targets
    return term.addmm_(read, sums)


def retain_term(W: Tensor, pull: float, shared: _Shared, config: ScaPreConfig) -> Tensor:
    """W (pull I + K), for the moment K of retained states and rows W in coordinates (n, c)."""
    return pull * W + W @ shared.retain if config.retain_scale else pull * W


def row_entropy(W: Tensor, shared: _Shared, config: ScaPreConfig, generator: torch.Generator) -> Tensor:
    """(n,) in [0, 1]: the entropy of each row's outputs for noisy concepts."""
    concepts = shared.problem.subjects
    return entropy(W, Noisy.draw(concepts, len(concepts), config.entropy_copies, config.noise, generator), config.bins)


def by_rows(W: Tensor, work: Callable[[Tensor, slice], Tensor], width: int | None = None) -> Tensor:
    """Return `work` of a few rows of W at a time, which keeps what lies between small."""
    done = torch.empty_like(W) if width is None else W.new_empty(len(W), width)
    for first in range(0, len(W), _ROWS):
        some = slice(first, min(len(W), first + _ROWS))
        done[some] = work(W[some], some)
    return done


class _Scale:
    """The program for many concepts: one system for each row, then a proximal step towards the row's old direction."""

    def __init__(self, shared: _Shared, config: ScaPreConfig) -> None:
        self.shared, self.config = shared, config
        O, C = shared.targets, shared.C  # noqa: E741 - the paper's letter
        G0 = C @ C.mT + config.erase_scale * gram(O) + shared.retain
        G0.diagonal().add_(config.ridge)
        J = None
        if config.gate:
            J = (shared.U * (1 - shared.gate)) @ shared.U.mT
            J.diagonal().add_(1.0)
        self.pencil: Pencil = pencil(G0, J)
        self.EF = self.pencil.E.mT @ shared.F

    def edited(self, W: Tensor, generator: torch.Generator) -> Tensor:
        shared, config = self.shared, self.config
        h = row_entropy(W, shared, config, generator) if config.mu is None or config.spherical else None
        mu = float(h.mean()) if config.mu is None and h is not None else config.mu or 0.0
        m = relevance(W, shared, config, generator)
        anchors, alpha = anchor_term(W, m, shared, config), config.erase_scale * largest_relevance(m, W)
        system = RowSystem(self.pencil, mu, self.EF)

        def solved(rows: Tensor, some: slice) -> Tensor:
            rhs = retain_term(shared.inside(rows), config.ridge + mu, shared, config) + anchors[some]
            edited = shared.whole(system.solve(alpha[some], rhs @ self.pencil.E), rows)
            return aligned(edited, rows, config.ridge + mu, mu, config.geometry)

        edited = by_rows(W, solved)
        return spherical_mix(edited, W, h) if config.spherical and h is not None else edited


class _Small:
    """The program for few concepts: one system for all rows, then part of each row's change undone, by its entropy."""

    def __init__(self, shared: _Shared, config: ScaPreConfig) -> None:
        self.shared, self.config = shared, config
        O, C = shared.targets, shared.C  # noqa: E741 - the paper's letter
        A = C @ C.mT + config.erase_scale * gram(O) + shared.retain
        A.diagonal().add_(config.ridge)
        self.inverse = solve_spd(A, torch.eye(len(A), dtype=A.dtype, device=A.device))
        # The factor that does not depend on relevance.
        self.common = shared.retain.clone()
        self.common.diagonal().add_(config.ridge)
        if config.project:
            PC = C - (shared.U * shared.gate) @ (shared.U.mT @ C)
            self.common -= (config.erase_scale if config.residual is None else config.residual) * PC @ PC.mT

    def edited(self, W: Tensor, generator: torch.Generator) -> Tensor:
        shared, config = self.shared, self.config
        h = row_entropy(W, shared, config, generator)
        m = relevance(W, shared, config, generator)
        keep = (config.least + (1 - config.least) * (1 - h))[:, None]
        anchors = anchor_term(W, m, shared, config)

        def solved(rows: Tensor, some: slice) -> Tensor:
            edited = (shared.inside(rows) @ self.common + anchors[some]) @ self.inverse
            return rows.lerp(shared.whole(edited, rows), keep[some])

        return by_rows(W, solved)


class _Paper:
    """The paper's Sylvester equation, and a step back along the Bures geodesic."""

    def __init__(self, shared: _Shared, config: ScaPreConfig) -> None:
        self.shared, self.config = shared, config
        O = shared.targets  # noqa: E741 - the paper's letter
        A = config.erase_scale * gram(O) + shared.retain
        if config.gate:
            S = torch.linalg.svdvals(shared.C)
            A += (shared.U * (torch.sigmoid(-S) * S)) @ shared.U.mT
        A.diagonal().add_(config.ridge)
        self.pencil: Pencil = pencil(A)
        self.pencil.check(0.0)

    def edited(self, W: Tensor, generator: torch.Generator) -> Tensor:
        shared, config = self.shared, self.config
        m = relevance(W, shared, config, generator)
        rhs = retain_term(shared.inside(W), config.ridge, shared, config)
        rhs = rhs + shared.through_anchors(config.erase_scale * W)
        alpha = largest_relevance(m, W)[:, None]
        edited = (rhs @ self.pencil.E / (self.pencil.values + alpha)) @ self.pencil.E.mT
        edited = shared.whole(edited, W, config.ridge / (config.ridge + alpha))
        return bures_step(edited, W, config.geometry_weight) if config.geometry else edited


def aligned(edited: Tensor, W: Tensor, pull: float, mu: float, steps: int) -> Tensor:
    """Turn and scale rows (n, d) of `edited` part of the way back to those of W: the program's proximal step.

    With a, w the rows, u_a = a / |a|, u_0 = w / |w|, l the pull: from u = u_a, `steps` times

        kappa = max(0, <u, u_0>);   r = (l |a| + mu |w| kappa) / (l + mu)
        u <- normalise(l |a| u_a + mu |w| kappa u_0)

    Every u lies in the plane of a and w, as x a + y w, so three inner products of each row suffice.
    """
    if not steps:
        return edited
    aa, aw, ww = (torch.einsum("nd,nd->n", *pair) for pair in ((edited, edited), (edited, W), (W, W)))
    size, old = aa.sqrt(), ww.sqrt().clamp(min=1e-300)
    x, y = 1 / size.clamp(min=1e-300), torch.zeros_like(size)
    for _ in range(steps):
        kappa = ((x * aw + y * ww) / old).clamp(min=0)
        r = (pull * size + mu * old * kappa) / (pull + mu)
        x, y = torch.full_like(size, pull), mu * kappa
        length = (x * x * aa + 2 * x * y * aw + y * y * ww).clamp(min=0).sqrt().clamp(min=1e-300)
        x, y = x / length, y / length
    return (r * x)[:, None] * edited + (r * y)[:, None] * W


def spherical_mix(edited: Tensor, W: Tensor, h: Tensor) -> Tensor:
    """Interpolate each row with its original on the sphere, and its norm on a logarithmic scale.

    The share of the original is beta = (1 - exp(-h / max h)) max(0, cos), with h the row's entropy.
    """
    u, u_0 = normalize(edited, dim=1), normalize(W, dim=1)
    cos = (u * u_0).sum(dim=1, keepdim=True).clamp(-1, 1)
    beta = (1 - torch.exp(-h / h.amax().clamp(min=1e-300)))[:, None] * cos.clamp(min=0)
    angle = torch.arccos(cos)
    sine = torch.sin(angle).clamp(min=1e-12)
    mixed = torch.where(angle < 1e-6, u, (torch.sin((1 - beta) * angle) * u + torch.sin(beta * angle) * u_0) / sine)
    log_size = (1 - beta) * edited.norm(dim=1, keepdim=True).clamp(min=1e-300).log() + beta * W.norm(
        dim=1, keepdim=True
    ).clamp(min=1e-300).log()
    return log_size.exp() * normalize(mixed, dim=1)


def bures_step(edited: Tensor, W: Tensor, beta: float) -> Tensor:
    """argmin_X |X - edited|^2 + beta d(X X^T, W W^T)^2 with d the Bures distance: (edited + beta W Q) / (1 + beta).

    d is min_Q |X - W Q| over orthogonal Q (Procrustes), reached on the way from `edited` by the polar factor of
    W^T edited. Its rank is at most the number of rows of W: with fewer rows than columns it is computed in coordinates
    of the row spaces.
    """
    if len(W) >= W.shape[1]:
        left, _, right = torch.linalg.svd(W.mT @ edited)
        return (edited + beta * W @ (left @ right)) / (1 + beta)
    _, R = torch.linalg.qr(W.mT, mode="r")
    basis, S = torch.linalg.qr(edited.mT)  # W^T edited = (Q R) (basis S)^T
    left, _, right = torch.linalg.svd(R @ S.mT)
    return (edited + beta * R.mT @ (left @ right) @ basis.mT) / (1 + beta)
