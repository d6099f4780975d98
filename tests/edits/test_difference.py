"""Two edits compared: exactly zero for equal ones, and the numbers of full matrices for others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import erase
from excise.edits.deltas import Dense, LowRank, TextMap
from excise.edits.difference import compared
from excise.edits.edit import Edit


@pytest.fixture
def edit(pipe):
    return erase(pipe, ["cat"], method="uce", preserve=["dog"], vocabulary=None)


def with_deltas(edit: Edit, modules, text_maps=()) -> Edit:
    return replace(edit, modules=modules, text_maps=tuple(text_maps))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_edit_is_the_same_as_itself(edit):
    difference = compared(edit, edit)
    assert difference.same
    assert (difference.difference, difference.record) == (0.0, {})
    assert difference.cosine == pytest.approx(1)


def test_a_scaled_edit_points_the_same_way(edit):
    difference = compared(edit, edit.scaled(0.5))
    assert not difference.same
    assert difference.cosine == pytest.approx(1)
    assert difference.difference == pytest.approx(0.5 * difference.norms[0])
    assert difference.record == {"settings.strength": (None, 0.5)}


def test_what_the_records_say_is_compared_by_concept_and_setting(pipe, edit):
    other = erase(pipe, ["tree"], method="uce", preserve=["dog"], vocabulary=None, ridge=1.0)
    record = compared(edit, other).record
    assert {"concept cat", "concept tree", "settings.ridge"} <= set(record)
    assert record["concept tree"][0] is None
    assert record["settings.ridge"][1] == 1.0


@given(st.integers(0, 99), st.booleans(), st.booleans())
def test_the_numbers_are_those_of_full_matrices(seed, dense_one, dense_two):
    b, a, c, d = random(seed, 5, 2), random(seed + 1, 2, 7), random(seed + 2, 5, 3), random(seed + 3, 3, 7)
    one, two = (b @ a).double(), (c @ d).double()
    base = EMPTY
    first = with_deltas(base, {"x": Dense(b @ a) if dense_one else LowRank(b, a)})
    second = with_deltas(base, {"x": Dense(c @ d) if dense_two else LowRank(c, d)})
    (path,) = compared(first, second).paths
    assert path.norms == pytest.approx((float(one.norm()), float(two.norm())), rel=1e-5)
    assert path.difference == pytest.approx(float((one - two).norm()), rel=1e-5)
    assert path.cosine == pytest.approx(float((one * two).sum() / one.norm() / two.norm()), abs=1e-5)


def test_text_maps_are_compared_in_the_space_of_text_and_other_weights_count_as_unchanged():
    u, v = random(0, 7, 2), random(1, 2, 7)
    first = with_deltas(EMPTY, {}, [TextMap(u, v, ("x", "y"))])
    second = with_deltas(EMPTY, {"x": LowRank(random(2, 5, 2), v)}, [TextMap(2 * u, v, ("x",))])
    paths = {(p.path, p.part): p for p in compared(first, second).paths}
    assert set(paths) == {("x", "text map"), ("x", "weight"), ("y", "text map")}
    assert paths["x", "text map"].cosine == pytest.approx(1)
    assert paths["x", "weight"].norms[0] == 0
    assert paths["y", "text map"].cosine is None
    assert paths["y", "text map"].difference == pytest.approx(float((u @ v).norm()), rel=1e-5)


def test_other_shapes_have_no_difference():
    first, second = (with_deltas(EMPTY, {"x": Dense(random(0, n, 3))}) for n in (2, 4))
    difference = compared(first, second)
    assert (difference.difference, difference.cosine, difference.same) == (None, None, False)


def test_hooks_are_compared_by_what_they_do(pipe):
    one, two = (erase(pipe, [name], method="sld", vocabulary=None) for name in ("cat", "dog"))
    assert compared(one, one).hooks == {"sld": True}
    assert compared(one, two).hooks == {"sld": False}


def _empty() -> Edit:
    from excise.edits.record import Base, EditRecord, Target

    base = Base(model="m", family="sd", weights="0", weights_bfloat16="0", text_encoder="0")
    return Edit(EditRecord(excise="0", base=base, method="x", concepts=(Target(name="cat", kind="object", anchor=""),)))


EMPTY = _empty()
