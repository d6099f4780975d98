"""Closed forms as printed in the papers, or as in the official programs: loops over layers, concepts and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.linalg import solve_sylvester
from torch import Tensor

from excise.linalg.solves import weakest_direction
from excise.methods.closed_form.cure_config import CUREConfig
from excise.methods.closed_form.rece_config import RECEConfig
from excise.methods.closed_form.scapre_config import ScaPreConfig
from excise.methods.closed_form.speed_config import SPEEDConfig
from excise.methods.closed_form.text_problem import TextProblem


def uce(
    W: Tensor, p: TextProblem, erase: float, keep: float, ridge: float, fixed: Sequence[Tensor] = (), hold: float = 0.0
) -> Tensor:
    """Return W' of UCE, concept by concept; `fixed` are further states to retain, with weight `hold`."""
    left, right = ridge * W, ridge * torch.eye(W.shape[1], dtype=W.dtype)
    for o, n in zip(p.targets, p.anchors, strict=True):
        left = left + erase * torch.outer(W @ n, o)
        right = right + erase * torch.outer(o, o)
    for rows, weight in ((p.retain, keep), (fixed, hold)):
        for r in rows:
            left = left + weight * torch.outer(W @ r, r)
            right = right + weight * torch.outer(r, r)
    return left @ torch.linalg.inv(right)


def rece_restoring(weights: dict[str, Tensor], now: dict[str, Tensor], p: TextProblem, c: RECEConfig) -> Tensor:
    """Return RECE's states that best restore the target tokens of a concept in the edited layers `now`."""
    d = p.targets.shape[1]
    gram, cross = c.regularisation * torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for k, W in weights.items():
        gram, cross = gram + now[k].mT @ now[k], cross + now[k].mT @ W
    inverse = torch.linalg.inv(gram)
    return torch.stack([inverse @ (cross @ target) for target in p.targets])


def cure(W: Tensor, p: TextProblem, c: CUREConfig) -> Tensor:
    """Return W' of CURE, with dense projectors."""

    def projector(states: Tensor) -> Tensor:
        _, S, V = torch.linalg.svd(states, full_matrices=False)
        r = S**2 / (S**2).sum()
        return V.mT @ torch.diag(c.expansion * r / ((c.expansion - 1) * r + 1)) @ V

    P = projector(p.targets)
    return W @ (torch.eye(W.shape[1], dtype=W.dtype) - P + P @ projector(p.retain))


def speed(W: Tensor, p: TextProblem, c: SPEEDConfig, K: Tensor, g: Tensor) -> Tensor:
    """Return W' of SPEED, with the retain moment summed over explicit augmented rows."""
    k, d = p.targets.shape
    eye = torch.eye(d, dtype=W.dtype)
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    probe = W @ (A - T) @ torch.linalg.inv(eye + T)
    influence = (p.retain @ probe.mT).norm(dim=1)
    retained = p.retain[influence > influence.mean()]
    _left, _, right = torch.linalg.svd(W, full_matrices=False)
    v = right[-1] * torch.sign(right[-1].dot(weakest_direction(W)))
    P_min = torch.outer(v, v)
    total, count = torch.zeros((d, d), dtype=W.dtype), 0
    for start in range(0, len(retained), c.chunk):
        part = retained[start : start + c.chunk]
        # Noise with the component g along v; the projector reduces it to g v.
        copies = (part[:, None] + (g[start : start + c.chunk, :, None] * v) @ P_min).flatten(0, 1)
        moved = (copies @ probe.mT).norm(dim=1)
        rows = torch.cat([part, copies[moved > moved.mean()]])
        for some in rows.split(16):  # outer products as printed, a few at a time for the sake of memory
            total += (some[:, :, None] @ some[:, None, :]).sum(dim=0)
        count += len(rows)
    U, S, _ = torch.linalg.svd(total / count)
    P = U[:, c.threshold > S] @ U[:, c.threshold > S].mT
    M = torch.linalg.inv(T @ P + c.ridge * eye)
    core = K.mT @ P @ M @ K + c.invariant_slack * torch.eye(K.shape[1], dtype=W.dtype)
    return W + W @ (A - T) @ P @ (eye - M @ K @ torch.linalg.inv(core) @ K.mT @ P) @ M


def speed_kept(W: Tensor, p: TextProblem) -> int:
    """Return how many retained rows pass SPEED's filter for a layer, which is the number of noise rows it draws."""
    k, d = p.targets.shape
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    influence = (p.retain @ (W @ (A - T) @ torch.linalg.inv(torch.eye(d).double() + T)).mT).norm(dim=1)
    return int((influence > influence.mean()).sum())


def scapre_scores(W: Tensor, p: TextProblem, c: ScaPreConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ScaPre's entropies (n,) and relevances (n, concepts) of one layer, row by row and concept by concept."""
    concepts, d = p.subjects.shape

    def noise(copies: int) -> Tensor:
        return c.noise * torch.randn((concepts, copies, d), generator=generator).to(W)

    h = torch.zeros(len(W), dtype=W.dtype)
    if c.form != "paper":  # that form has no entropy
        around = (p.subjects[:, None] + noise(c.entropy_copies)).flatten(0, 1)
        for i, w in enumerate(W):
            acts = around @ w
            share = torch.histc((acts - acts.min()) / (acts.max() - acts.min()), c.bins, 0, 1) / len(acts)
            h[i] = -torch.special.xlogy(share, share).sum() / math.log(c.bins)
    empty = p.null[0] if len(p.null) else p.start  # SANA's empty prompt has no further token
    positive, negative = p.subjects[:, None] + noise(c.copies), empty + noise(c.copies)
    m = torch.zeros(len(W), concepts, dtype=W.dtype)
    for k in range(concepts):
        for i, w in enumerate(W):
            m[i, k] = _information(positive[k] @ w, negative[k] @ w)
    if c.relevance == "ratio":
        return h, m / m.max()
    z = (m - m.mean(dim=0)) / m.std(dim=0).clamp(min=1e-6)
    return h, torch.sigmoid(z / c.temperature) ** c.power


def _information(positive: Tensor, negative: Tensor) -> float:
    """Return the mutual information of "above the median" and "positive", summed over the four cells of the table."""
    acts = torch.cat([positive, negative])
    above = acts > acts.median()
    labels = torch.arange(len(acts)) < len(positive)
    total = 0.0
    for side in (True, False):
        for label in (True, False):
            joint = float(((above == side) & (labels == label)).double().mean())
            apart = float((above == side).double().mean()) * float((labels == label).double().mean())
            total += joint * math.log(joint / apart) if joint else 0.0
    return total


def scapre_scale(W: Tensor, p: TextProblem, c: ScaPreConfig, h: Tensor, m: Tensor, rows: range) -> Tensor:
    """Return W' of some rows of a layer by ScaPre's program for many concepts, with a factorisation for each row."""
    C, d, mu = p.subjects.mT, W.shape[1], float(h.mean())
    Pi = C @ torch.linalg.inv(C.mT @ C + 1e-8 * torch.eye(C.shape[1], dtype=C.dtype)) @ C.mT
    pull = c.ridge + mu
    G = pull * torch.eye(d, dtype=C.dtype) + C @ C.mT + c.erase_scale * p.targets.mT @ p.targets
    new = []
    for i in rows:
        w = W[i]
        b = pull * w + c.erase_scale * ((m[i, p.owner] * (p.anchors @ w)) @ p.targets)
        factor = torch.linalg.cholesky(G + c.erase_scale * m[i].max() * Pi)
        a = torch.cholesky_solve(b[:, None], factor)[:, 0]
        u, u_0, r = a / a.norm(), w / w.norm(), a.norm()
        for _ in range(c.geometry):
            kappa = u.dot(u_0).clamp(min=0)
            r = (pull * a.norm() + mu * w.norm() * kappa) / (pull + mu)
            u = pull * a + mu * w.norm() * kappa * u_0
            u = u / u.norm()
        new.append(r * u)
    return torch.stack(new)


def scapre_small(W: Tensor, p: TextProblem, c: ScaPreConfig, h: Tensor, m: Tensor, rows: range) -> Tensor:
    """Return W' of some rows by ScaPre's program for few concepts: one inverse, then a partial rollback of each row."""
    C, d = p.subjects.mT, W.shape[1]
    G = c.ridge * torch.eye(d, dtype=C.dtype) + C @ C.mT + c.erase_scale * p.targets.mT @ p.targets
    inverse = torch.linalg.inv(G)
    new = []
    for i in rows:
        w = W[i]
        b = c.ridge * w + c.erase_scale * ((m[i, p.owner] * (p.anchors @ w)) @ p.targets)
        share = c.least + (1 - c.least) * (1 - h[i])
        new.append(share * (b @ inverse) + (1 - share) * w)
    return torch.stack(new)


def scapre_paper(W: Tensor, p: TextProblem, c: ScaPreConfig, h: Tensor, m: Tensor, rows: range) -> Tensor:
    """Return W' of some rows by ScaPre's paper: a Sylvester equation, then a step back along the geodesic."""
    A = c.ridge * torch.eye(W.shape[1], dtype=W.dtype) + c.erase_scale * p.targets.mT @ p.targets
    right = c.ridge * W + c.erase_scale * W @ p.anchors.mT @ p.targets
    B = torch.diag(m.amax(dim=1))
    new = torch.from_numpy(solve_sylvester(B.numpy(), A.numpy(), right.numpy()))
    if c.geometry:
        left, _, back = torch.linalg.svd(W.mT @ new)
        new = (new + c.geometry_weight * W @ left @ back) / (1 + c.geometry_weight)
    return new[rows.start : rows.stop]


SCAPRE = {"scale": scapre_scale, "small": scapre_small, "paper": scapre_paper}
