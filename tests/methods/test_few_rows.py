"""Text with more dimensions than a request has states: what is solved among the states is the same as among dimensions.

The systems of dimensions have tests of their own; here both are solved, in double precision, at a width at which both
are quick.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem, weights_for
from torch.testing import assert_close

from benchmarks.closed_form import change
from excise.linalg import row_space
from excise.linalg.row_space import Ridge, few
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.config import MethodConfig
from excise.methods.closed_form.mace import MACE
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.closed_form.scapre import ScaPre
from excise.methods.closed_form.scapre_config import ScaPreConfig
from excise.methods.closed_form.speed import SPEED
from excise.methods.closed_form.speed_config import SPEEDConfig
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig

SOLVES = {
    "uce": (UCE, UCEConfig(fixed="none", erase_scale=2.0, retain_scale=0.3)),
    "uce, start fixed": (UCE, UCEConfig()),
    "uce, empty prompt fixed": (UCE, UCEConfig(fixed="start_and_null")),
    "uce, nothing erased": (UCE, UCEConfig(erase_scale=0.0)),
    "mace": (MACE, MACEConfig()),
    "speed": (SPEED, SPEEDConfig(threshold=0.3)),
    "speed, all retained": (SPEED, SPEEDConfig(threshold=0.3, filter=False, invariants=0)),
    "speed, no copies": (SPEED, SPEEDConfig(threshold=0.3, augment="none", invariant_slack=0.5)),
    "speed, random copies": (SPEED, SPEEDConfig(threshold=2.0, augment="random", draws=1, filter=False)),
    "scapre": (ScaPre, ScaPreConfig()),
    "scapre, retaining": (ScaPre, ScaPreConfig(retain_scale=3.0, relevance="none", geometry=0)),
    "scapre, own elsewhere": (ScaPre, ScaPreConfig(relevance="cosine", elsewhere="own", gate=True, spherical=True)),
    "scapre for few": (ScaPre, ScaPreConfig(form="small", project=True, retain_scale=0.5)),
    "scapre as printed": (ScaPre, ScaPreConfig(form="paper", relevance="ratio", gate=True, geometry=0)),
    "scapre as printed, pulled back": (ScaPre, ScaPreConfig(form="paper", relevance="none")),
}


@st.composite
def wide_problems(draw) -> TextProblem:
    """Problems of fewer states than dimensions."""
    d, tokens, retain = draw(st.integers(16, 24)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def rows(n: int) -> torch.Tensor:
        return torch.randn((n, d), generator=generator, dtype=torch.float64)

    concepts = draw(st.integers(1, min(tokens, 3)))
    owner = torch.arange(tokens) % concepts
    return problem(rows(tokens), rows(tokens), rows(retain), rows(1)[0], rows(5), owner)


def changes(
    method: type[ClosedForm], config: MethodConfig, p: TextProblem, seed: int, wide: int
) -> dict[str, torch.Tensor]:
    weights = weights_for(p, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_space, "WIDE", wide)
        solution = method().solve(p, weights, config, torch.Generator().manual_seed(seed))
    return {path: change(solution, path, W) for path, W in weights.items()}


@pytest.mark.parametrize("name", SOLVES)
@settings(max_examples=15, deadline=None)
@given(p=wide_problems(), seed=st.integers(0, 1000))
def test_solving_among_few_states_gives_the_same(name, p, seed):
    method, config = SOLVES[name]
    usual, among = (changes(method, config, p, seed, wide) for wide in (100, 1))
    for path in usual:
        size = float(usual[path].abs().max())
        assert_close(among[path], usual[path], rtol=1e-8, atol=1e-8 * (1 + size))


def test_a_system_of_rows_is_that_of_dimensions():
    torch.manual_seed(0)
    R, b = torch.randn(5, 30, dtype=torch.float64), torch.randn(3, 30, dtype=torch.float64)
    H = torch.linalg.inv(0.5 * torch.eye(30, dtype=R.dtype) + R.mT @ R)
    assert_close(Ridge(R, 0.5).through(b), b @ H, rtol=1e-10, atol=1e-12)
    assert_close(Ridge(R, 0.5).own(2), R[:2] @ H, rtol=1e-10, atol=1e-12)
    assert_close(Ridge(R[:0], 0.5).through(b), 2 * b)


def test_the_systems_of_every_text_encoder_of_today_but_the_widest_are_those_of_dimensions():
    assert not few(100, 768)
    assert not few(100, 3584)
    assert not few(5000, 4096)
    assert few(1100, 15_360)


def test_no_matrix_of_all_dimensions_is_made():
    d, generator = 20_000, torch.Generator().manual_seed(0)
    rows = [torch.randn((n, d), generator=generator, dtype=torch.float64) for n in (2, 2, 3, 1, 4)]
    p = problem(rows[0], rows[1], rows[2], rows[3][0], rows[4])
    weights = {"door": torch.full((4, d), 1 / d)}
    for method, config in ((UCE(), UCEConfig()), (SPEED(), SPEEDConfig()), (ScaPre(), ScaPreConfig(retain_scale=1.0))):
        solution = method.solve(p, weights, config, torch.Generator().manual_seed(0))  # 3.2 GB each would not be quick
        assert solution.text_maps or solution.modules
