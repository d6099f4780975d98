"""ScaPre against the programs' steps written out row by row, the paper's equation, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import problem, text_problems, weights_for
from torch.testing import assert_close

from excise.errors import ExciseWarning, IllConditionedError
from excise.linalg.rows import RowSystem, pencil
from excise.methods.closed_form import informax, scapre
from excise.methods.closed_form.scapre import ScaPre
from excise.methods.closed_form.scapre_config import ScaPreConfig

problems_ = text_problems(min_retain=1)
EDGE = 1e-6  # noise is multiplied in single precision, so an activation this near to an edge may fall on either side


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_relevance(W, p, c, generator):
    """The binarised activations counted one by one, the information summed over the four cells of the table."""
    empty = p.null[0]
    m = torch.zeros(len(W), len(p.subjects), dtype=W.dtype)
    draws = [torch.randn((len(p.subjects), c.copies, W.shape[1]), generator=generator).to(W) for _ in "ab"]
    for k, concept in enumerate(p.subjects):
        for i, w in enumerate(W):
            positive = [float(w @ (concept + c.noise * z)) for z in draws[0][k]]
            negative = [float(w @ (empty + c.noise * z)) for z in draws[1][k]]
            below, above = sorted(positive + negative)[c.copies - 1 : c.copies + 1]
            assume(above - below > EDGE)
            median = below
            joint = [
                [sum(x > median for x in group), sum(x <= median for x in group)] for group in (positive, negative)
            ]
            total = 2 * c.copies
            m[i, k] = sum(
                n / total * math.log(n * total / (sum(row) * (joint[0][j] + joint[1][j])))
                for row in joint
                for j, n in enumerate(row)
                if n
            )
    if c.relevance == "ratio":
        return m / m.max()
    z = (m - m.mean(dim=0)) / m.std(dim=0).clamp(min=1e-6)
    return torch.sigmoid(z / c.temperature) ** c.power


def naive_entropy(W, p, c, generator):
    z = torch.randn((len(p.subjects), c.entropy_copies, W.shape[1]), generator=generator).to(W)
    copies = (p.subjects[:, None] + c.noise * z).flatten(0, 1)
    h = []
    for w in W:
        acts = copies @ w
        scaled = (acts - acts.min()) / (acts.max() - acts.min())
        inner = c.bins * scaled[(scaled > 0) & (scaled < 1)]
        assume((inner - inner.round()).abs().min() > EDGE)
        share = torch.histc(scaled, bins=c.bins, min=0, max=1) / len(acts)
        h.append(-sum(float(s) * math.log(float(s)) for s in share if s > 0) / math.log(c.bins))
    return torch.tensor(h, dtype=W.dtype)


def naive_scale(W, p, c, generator):
    """The program for many concepts, matrix by matrix and row by row."""
    d, eye = W.shape[1], torch.eye(W.shape[1], dtype=W.dtype)
    C = p.subjects.mT
    Pi = C @ torch.linalg.inv(C.mT @ C + 1e-8 * torch.eye(C.shape[1], dtype=W.dtype)) @ C.mT
    mu = float(naive_entropy(W, p, c, generator).mean()) if c.mu is None else c.mu
    m = naive_relevance(W, p, c, generator)
    G = (c.ridge + mu) * eye + C @ C.mT
    if c.gate:
        U, S, _ = torch.linalg.svd(C, full_matrices=False)
        G = G + mu * U @ torch.diag(1 - torch.sigmoid((S - S.median()) / c.gate_temperature) ** c.gate_power) @ U.mT
    for o in p.targets:
        G = G + c.erase_scale * torch.outer(o, o)
    keep = sum((torch.outer(r, r) for r in p.retain), torch.zeros(d, d, dtype=W.dtype))
    keep = keep * c.retain_scale * len(p.targets) / len(p.retain)
    new = []
    for i, w in enumerate(W):
        b = (c.ridge + mu) * w + keep @ w
        for o, n, k in zip(p.targets, p.anchors, p.owner, strict=True):
            read = m[i, k] * (w @ n) + ((1 - m[i, k]) * (w @ o) if c.elsewhere == "own" else 0)
            b = b + c.erase_scale * read * o
        a = torch.linalg.solve(G + keep + c.erase_scale * m[i].max() * Pi, b)
        pull, u, u_0 = c.ridge + mu, a / a.norm(), w / w.norm()
        r = a.norm()
        for _ in range(c.geometry):
            kappa = max(0.0, float(u @ u_0))
            r = (pull * a.norm() + mu * w.norm() * kappa) / (pull + mu)
            u = pull * a + mu * w.norm() * kappa * u_0
            u = u / u.norm()
        new.append(r * u)
    return torch.stack(new)


def edited(p, W, c, seed=0):
    return W + ScaPre().solve(p, {"w": W}, c, seeded(seed)).modules["w"].dw


@settings(max_examples=60)
@given(
    problems_,
    st.sampled_from(["mask", "ratio"]),
    st.sampled_from(["zero", "own"]),
    st.booleans(),
    st.sampled_from([None, 0.1]),
    st.sampled_from([0.0, 0.7]),
    st.integers(0, 3),
    st.integers(0, 1000),
)
def test_scale_equals_the_program_row_by_row(p, relevance, elsewhere, gate, mu, keep, steps, seed):
    c = ScaPreConfig(
        relevance=relevance, elsewhere=elsewhere, gate=gate, mu=mu, retain_scale=keep, geometry=steps, noise=0.5
    )
    for W in weights_for(p, seed).values():
        assert_close(edited(p, W, c, seed), naive_scale(W, p, c, seeded(seed)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("apart", [0.0, 0.03, 0.5])
def test_masks_that_nearly_all_rows_share_give_the_same_term(apart):
    generator = seeded()
    targets, anchors = (torch.randn((70, 6), generator=generator, dtype=torch.float64) for _ in "ab")
    anchors[10:] = anchors[torch.arange(60) % 10]
    owner = torch.arange(70) % 11  # not in the order of the concepts
    p = problem(targets, anchors, targets[:5], targets[0], targets[:1], owner)
    W = torch.randn((300, 6), generator=generator, dtype=torch.float64)
    m = torch.rand(11, generator=generator, dtype=torch.float64).expand(300, 11).clone()
    m[torch.rand((300, 11), generator=generator) < apart] = 0.125
    direct = 3.0 * ((W @ anchors.mT) * m[:, owner]) @ targets
    config = ScaPreConfig()
    assert_close(scapre.anchor_term(W, m, scapre._prepare(p, config), config), direct, rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(problems_, st.booleans(), st.sampled_from([0.0, 0.8, 1.0]), st.integers(0, 1000))
def test_small_equals_the_program_for_few_concepts(p, project, least, seed):
    c = ScaPreConfig(form="small", project=project, least=least, noise=0.5, erase_scale=1.0)
    C = p.subjects.mT
    U, S, _ = torch.linalg.svd(C, full_matrices=False)
    P = torch.eye(len(C)).double() - U @ torch.diag(torch.sigmoid(S - S.median())) @ U.mT
    for W in weights_for(p, seed).values():
        generator = seeded(seed)
        h, m = naive_entropy(W, p, c, generator), naive_relevance(W, p, c, generator)
        left = c.ridge * W - ((W @ P @ C) @ (P @ C).mT if project else 0)
        for o, n, k in zip(p.targets, p.anchors, p.owner, strict=True):
            left = left + torch.outer(m[:, k] * (W @ n), o)
        new = left @ torch.linalg.inv(c.ridge * torch.eye(len(C)).double() + C @ C.mT + p.targets.mT @ p.targets)
        share = (least + (1 - least) * (1 - h))[:, None]
        assert_close(edited(p, W, c, seed), share * new + (1 - share) * W, rtol=1e-7, atol=1e-7)


@settings(max_examples=40)
@given(problems_, st.booleans(), st.integers(0, 1000))
def test_paper_solves_its_sylvester_equation(p, gate, seed):
    c = ScaPreConfig(form="paper", relevance="ratio", geometry=0, gate=gate, noise=0.5)
    U, S, _ = torch.linalg.svd(p.subjects.mT, full_matrices=False)
    A = c.ridge * torch.eye(len(U)).double() + c.erase_scale * p.targets.mT @ p.targets
    if gate:
        A = A + U @ torch.diag((1 - torch.sigmoid(S)) * S) @ U.mT
    for W in weights_for(p, seed).values():
        B = torch.diag(naive_relevance(W, p, c, seeded(seed)).amax(dim=1))
        new = edited(p, W, c, seed)
        right = c.ridge * W + c.erase_scale * W @ p.anchors.mT @ p.targets
        assert_close(B @ new + new @ A, right, rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(text_problems(max_width=8), st.floats(0.1, 5), st.integers(0, 1000))
def test_the_bures_step_is_the_minimum(p, beta, seed):
    """Among nearby matrices none has a smaller objective; the distance is the nuclear-norm formula of Bures."""

    def distance(X, W):
        singular = torch.linalg.svdvals(W.mT @ X)
        return X.square().sum() + W.square().sum() - 2 * singular.sum()

    for W in weights_for(p, seed, sizes=(9, 20)).values():
        solved = W + torch.randn(W.shape, generator=seeded(seed), dtype=W.dtype)
        best = scapre.bures_step(solved, W, beta)

        def objective(X, solved=solved, W=W):
            return (X - solved).square().sum() + beta * distance(X, W)

        lowest = objective(best)
        for i in range(20):
            other = best + 10.0 ** -(i % 4) * torch.randn(W.shape, generator=seeded(i), dtype=W.dtype)
            assert objective(other) >= lowest - 1e-9


def test_a_gram_that_is_kept_does_not_move():
    """With a heavy retained term, rows that are kept read the same."""
    torch.manual_seed(0)
    d = 24
    eye = torch.eye(d, dtype=torch.float64)
    p = problem(5 * eye[:2], 5 * eye[2:4], 5 * eye[4:12], eye[20], eye[21:24])
    W = torch.randn(30, d, dtype=torch.float64)
    c = ScaPreConfig(retain_scale=1e6, relevance="none", geometry=0, mu=0.0)
    change = edited(p, W, c) - W
    assert (change @ p.retain.mT).abs().max() < 1e-6 * (change @ p.targets.mT).abs().max()


def test_own_reading_elsewhere_leaves_rows_without_relevance_as_they_were():
    torch.manual_seed(0)
    p = problem(*(torch.randn(3, 12).double() for _ in range(3)), torch.randn(12).double(), torch.randn(4, 12).double())
    W = torch.randn(10, 12, dtype=torch.float64)
    c = ScaPreConfig(elsewhere="own", relevance="cosine", power=400.0, geometry=0, mu=0.0)
    shared = scapre._prepare(p, c)
    m = scapre.relevance(W, shared, c, seeded())
    change = (edited(p, W, c) - W).norm(dim=1)
    assert (m.amax(dim=1) == 1).sum() == 1
    assert (m.amax(dim=1) < 1e-6).sum() > 5
    untouched = m.amax(dim=1) < 1e-6
    # What is left of a change there is the pull of C C^T, which the program has beside the anchors.
    free = ScaPreConfig(elsewhere="own", relevance="none", geometry=0, mu=0.0)
    assert change[untouched].max() < (edited(p, W, free) - W).norm(dim=1)[untouched].min()


@pytest.mark.parametrize("positives", [1, 3, 5, 8])
def test_the_information_table_equals_its_definition(positives):
    table = informax.mutual_information_table(positives)
    for k in range(positives + 1):
        cells = [k, positives - k, positives - k, k]
        direct = sum(c / (2 * positives) * math.log(c * 2 / positives) for c in cells if c)
        assert table[k] == pytest.approx(direct, abs=1e-12)
    assert table[0] == table[-1] == pytest.approx(math.log(2))


def test_a_row_that_tells_nothing_has_no_information():
    W = torch.zeros(2, 8).double()
    concept, empty = (informax.Noisy(torch.randn(3, 8).double(), torch.randn(3, 5, 8), 1.0) for _ in "ab")
    assert informax.mutual_information(W, concept, empty).abs().max() == 0


def test_an_ill_conditioned_pencil_is_said_or_refused():
    low = torch.diag(torch.tensor([1e-14, 1.0]).double())
    with pytest.warns(ExciseWarning, match="condition number"):
        RowSystem(pencil(low), 0.0, torch.ones(2, 1).double())
    for wrong in (pencil(-low), pencil(low - 1e-3 * torch.eye(2))):
        with pytest.raises(IllConditionedError):
            RowSystem(wrong, 0.0, torch.ones(2, 1).double())
    with pytest.raises(IllConditionedError):
        pencil(low, -low)


def test_the_official_mask_saturates_and_the_cosine_does_not():
    """With the program's noise nearly every row separates a concept from nothing, so nearly all weigh the same."""
    torch.manual_seed(0)
    W, states = torch.randn(500, 64).double(), 28 * torch.nn.functional.normalize(torch.randn(6, 64).double(), dim=1)
    concepts, empty = states[:5], states[5]

    def information(noise: float):
        drawn = [informax.Noisy.draw(x, 5, 5, noise, seeded(i)) for i, x in enumerate((concepts, empty[None]))]
        return informax.mutual_information(W, *drawn)

    saturated = (information(0.01) > 0.69).double().mean()
    assert saturated > 0.95
    assert (information(20.0) > 0.69).double().mean() < 0.5
    cosine = informax.cosine(W, concepts, empty)
    assert cosine.std() > 0.1
    assert cosine.min() >= 0
    assert cosine.max() == 1


def test_entropy_counts_as_a_histogram_does():
    torch.manual_seed(0)
    W, copies = torch.randn(40, 8).double(), informax.Noisy(torch.randn(10, 8).double(), torch.randn(10, 10, 8), 0.1)
    h = informax.entropy(W, copies, 20)
    drawn = (copies.states[:, None] + 0.1 * copies.drawn).flatten(0, 1)
    for w, value in zip(W, h, strict=True):
        acts = drawn @ w
        share = torch.histc(acts, bins=20, min=float(acts.min()), max=float(acts.max())) / 100
        direct = -torch.special.xlogy(share, share).sum() / math.log(20)
        assert_close(value, direct, rtol=1e-9, atol=1e-9)
    assert informax.entropy(torch.zeros(2, 8).double(), copies, 20).tolist() == [0, 0]


@settings(max_examples=40)
@given(st.integers(2, 10), st.integers(1, 12), st.integers(1, 6), st.floats(0, 2), st.integers(0, 1000))
def test_row_systems_are_solved_one_by_one(d, n, m, mu, seed):
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    A, B, F, rhs, alpha = draw(d, d), draw(d, d), draw(d, m), draw(n, d), draw(n).abs()
    eye = torch.eye(d, dtype=torch.float64)
    G0, J = A @ A.mT + eye, B @ B.mT + eye
    for j, metric in ((None, eye), (J, J)):
        p = pencil(G0, j)
        found = RowSystem(p, mu, p.E.mT @ F).solve(alpha, rhs @ p.E)
        for i in range(n):
            wanted = torch.linalg.solve(G0 + mu * metric + alpha[i] * F @ F.mT, rhs[i])
            assert_close(found[i], wanted, rtol=1e-8, atol=1e-8)


def test_seed_decides_and_every_knob_has_an_effect():
    torch.manual_seed(1)
    owner = torch.tensor([0, 0, 1, 2])
    p = problem(
        *(torch.randn(n, 12).double() for n in (4, 4, 6)), torch.randn(12).double(), torch.randn(4, 12).double(), owner
    )
    W = torch.randn(20, 12).double()
    base = {"noise": 0.5}
    assert torch.equal(edited(p, W, ScaPreConfig(**base)), edited(p, W, ScaPreConfig(**base)))
    assert not torch.equal(edited(p, W, ScaPreConfig(**base)), edited(p, W, ScaPreConfig(**base), seed=1))
    changes = {
        "scale": ["form=small", "erase_scale=1", "retain_scale=1", "ridge=2", "relevance=cosine", "elsewhere=own",
                  "temperature=2", "power=2", "noise=1", "copies=9", "mu=0.3", "entropy_copies=50", "bins=5",
                  "gate=true", "geometry=3", "spherical=true"],
        "small": ["project=true", "least=0.2"],
        "paper": ["geometry=0", "geometry_weight=3", "gate=true"],
    }  # fmt: skip
    from excise.cli.options import parse_settings

    for form, settings_ in changes.items():
        before = edited(p, W, ScaPreConfig(form=form, **base))
        for setting in settings_:
            config = ScaPreConfig(**{"form": form, **base, **parse_settings([setting])})
            assert not torch.allclose(edited(p, W, config), before), (form, setting)
    gated = {**base, "gate": True}
    for more in ({"gate_temperature": 5.0}, {"gate_power": 3.0}):
        one, two = (edited(p, W, ScaPreConfig(**gated, **m)) for m in ({}, more))
        assert not torch.allclose(one, two), more
    one, two = (edited(p, W, ScaPreConfig(form="small", project=True, residual=r, **base)) for r in (None, 0.5))
    assert not torch.allclose(one, two)
