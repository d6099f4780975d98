"""Closed forms as they are printed, or as the official programs go about them: loops over layers, concepts and rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from excise.linalg.solves import weakest_direction
from excise.methods.base import TextProblem
from excise.methods.cure import CUREConfig
from excise.methods.rece import RECEConfig
from excise.methods.scapre import ScaPreConfig
from excise.methods.speed import SPEEDConfig


def uce(W: Tensor, p: TextProblem, erase: float, keep: float, ridge: float) -> Tensor:
    """W', concept by concept, as the formula is printed."""
    left, right = ridge * W, ridge * torch.eye(W.shape[1], dtype=W.dtype)
    for o, n in zip(p.targets, p.anchors, strict=True):
        left = left + erase * torch.outer(W @ n, o)
        right = right + erase * torch.outer(o, o)
    for r in p.retain:
        left = left + keep * torch.outer(W @ r, r)
        right = right + keep * torch.outer(r, r)
    return left @ torch.linalg.inv(right)


def rece_restoring(weights: dict[str, Tensor], now: dict[str, Tensor], p: TextProblem, c: RECEConfig) -> Tensor:
    """The states that best restore one concept's target tokens in the edited layers `now`: sums over all layers."""
    d = p.targets.shape[1]
    gram, cross = c.regularisation * torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for k, W in weights.items():
        gram, cross = gram + now[k].mT @ now[k], cross + now[k].mT @ W
    inverse = torch.linalg.inv(gram)
    return torch.stack([inverse @ (cross @ target) for target in p.targets])


def cure(W: Tensor, p: TextProblem, c: CUREConfig) -> Tensor:
    """W', with dense projectors."""

    def projector(states: Tensor) -> Tensor:
        _, S, V = torch.linalg.svd(states, full_matrices=False)
        r = S**2 / (S**2).sum()
        return V.mT @ torch.diag(c.expansion * r / ((c.expansion - 1) * r + 1)) @ V

    P = projector(p.targets)
    return W @ (torch.eye(W.shape[1], dtype=W.dtype) - P + P @ projector(p.retain))


def speed(W: Tensor, p: TextProblem, c: SPEEDConfig, K: Tensor, g: Tensor) -> Tensor:
    """W', the printed closed form, with the retain moment summed over explicit augmented rows."""
    k, d = p.targets.shape
    eye = torch.eye(d, dtype=W.dtype)
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    probe = W @ (A - T) @ torch.linalg.inv(eye + T)
    influence = (p.retain @ probe.mT).norm(dim=1)
    kept = p.retain[influence > influence.mean()]
    _left, _, right = torch.linalg.svd(W, full_matrices=False)
    v = right[-1] * torch.sign(right[-1].dot(weakest_direction(W)))
    P_min = torch.outer(v, v)
    total, count = torch.zeros((d, d), dtype=W.dtype), 0
    for start in range(0, len(kept), c.chunk):
        part = kept[start : start + c.chunk]
        # Noise whose component along v is g: what the projector leaves of it is g v.
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
    """How many retained rows SPEED's filter keeps for a layer, which is how many rows of noise it draws."""
    k, d = p.targets.shape
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    influence = (p.retain @ (W @ (A - T) @ torch.linalg.inv(torch.eye(d).double() + T)).mT).norm(dim=1)
    return int((influence > influence.mean()).sum())


def scapre_mask(W: Tensor, p: TextProblem, c: ScaPreConfig, generator: torch.Generator) -> tuple[float, Tensor]:
    """mu and m (n, concepts) of one layer, row by row and concept by concept."""
    concepts, d = p.subjects.shape

    def noise(copies: int) -> Tensor:
        return c.noise * torch.randn((concepts, copies, d), generator=generator, dtype=W.dtype)

    around = (p.subjects[:, None] + noise(c.entropy_copies)).flatten(0, 1)
    h = 0.0
    for w in W:
        acts = around @ w
        share = torch.histc((acts - acts.min()) / (acts.max() - acts.min()), c.bins, 0, 1) / len(acts)
        h -= float(torch.special.xlogy(share, share).sum()) / math.log(c.bins)
    positive, negative = p.subjects[:, None] + noise(c.copies), p.null[0] + noise(c.copies)
    m = torch.zeros(len(W), concepts, dtype=W.dtype)
    for k in range(concepts):
        for i, w in enumerate(W):
            acts = torch.cat([positive[k] @ w, negative[k] @ w])
            above = acts > acts.median()
            labels = torch.arange(len(acts)) < c.copies
            total = 0.0
            for side in (True, False):
                for label in (True, False):
                    joint = float(((above == side) & (labels == label)).double().mean())
                    apart = float((above == side).double().mean()) * float((labels == label).double().mean())
                    total += joint * math.log(joint / apart) if joint else 0.0
            m[i, k] = total
    z = (m - m.mean(dim=0)) / m.std(dim=0).clamp(min=1e-6)
    return h / len(W), torch.sigmoid(z / c.temperature) ** c.power


def scapre_system(p: TextProblem, c: ScaPreConfig, mu: float) -> tuple[Tensor, Tensor]:
    """What all rows of a layer share: G and Pi."""
    C, d = p.subjects.mT, p.targets.shape[1]
    Pi = C @ torch.linalg.inv(C.mT @ C + 1e-8 * torch.eye(C.shape[1], dtype=C.dtype)) @ C.mT
    G = (c.ridge + mu) * torch.eye(d, dtype=C.dtype) + C @ C.mT + c.erase_scale * p.targets.mT @ p.targets
    return G, Pi


def scapre_rows(
    W: Tensor, p: TextProblem, c: ScaPreConfig, system: tuple[Tensor, Tensor], mu: float, m: Tensor, rows: range
) -> Tensor:
    """W' of some rows of one layer, each with a factorisation of its own."""
    G, Pi = system
    pull = c.ridge + mu
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
