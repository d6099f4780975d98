"""UQ against the printed table it was inferred from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.metrics.rates import harmonic_mean
from excise.metrics.uq import uq

# ScaPre, Table 5: mean accuracy, CLIP score on COCO, UQ as printed (none for the untouched model)
TABLE = {
    "SD1.5": (89.9, 31.43, None),
    "FMN": (71.9, 30.62, 37.35),
    "SPM": (47.4, 30.81, 49.89),
    "ESD": (38.7, 30.14, 47.84),
    "MACE": (78.5, 31.02, 35.07),
    "UCE": (8.5, 29.45, 37.23),
    "RECE": (4.9, 29.27, 32.60),
    "SP": (9.6, 29.25, 31.78),
    "ScaPre": (0.8, 30.43, 64.09),
}
ACCURACY, CLIP, PRINTED = (list(column) for column in zip(*TABLE.values(), strict=True))


def test_the_printed_column_but_for_one_cell():
    found = dict(zip(TABLE, uq(ACCURACY, CLIP), strict=True))
    differs = {
        name: round(found[name], 2) for name, row in TABLE.items() if row[2] not in (None, round(found[name], 2))
    }
    assert differs == {"SPM": 52.89}


def test_without_the_untouched_row_no_printed_value_is_met():
    found = uq(ACCURACY[1:], CLIP[1:])
    assert all(abs(found - np.array(PRINTED[1:], dtype=float)) > 0.1)


def test_two_rows_by_hand():
    # both lie one standard deviation from the mean, on opposite sides in both respects
    u, q = 1 / (1 + np.e), 1 / (1 + np.exp(-1))
    assert uq([90, 10], [31, 29]) == pytest.approx([100 * harmonic_mean([u, q])] * 2)
    assert uq([90, 10], [29, 31]) == pytest.approx([100 * u, 100 * q])


rows = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), min_size=3, max_size=9).filter(
    lambda t: all(len(set(column)) > 1 for column in zip(*t, strict=True))
)


@given(rows)
def test_uq_ignores_units_and_rewards_both_parts(table):
    a, c = (np.array(column, dtype=float) for column in zip(*table, strict=True))
    found = uq(a, c)
    assert ((found > 0) & (found < 100)).all()
    assert uq(a / 100, c / 3 + 5) == pytest.approx(found)
    for i in range(len(a)):
        for j in range(len(a)):
            if a[i] <= a[j] and c[i] >= c[j]:
                assert found[i] >= found[j] - 1e-9


def test_a_value_changes_with_the_company_it_keeps():
    assert uq(ACCURACY[:-1], CLIP[:-1])[1] != pytest.approx(uq(ACCURACY, CLIP)[1], abs=0.5)


@pytest.mark.parametrize(
    ("accuracy", "clip", "message"), [([1, 1], [1, 2], "accuracy"), ([1, 2], [3, 3], "clip"), ([1, 2], [3], "shapes")]
)
def test_uq_refuses(accuracy, clip, message):
    with pytest.raises(ValueError, match=message):
        uq(accuracy, clip)
