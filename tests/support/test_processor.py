"""The processor's matrix units, read from what the system tells of it."""

from __future__ import annotations

import pytest

from excise.support import processor


@pytest.mark.parametrize(
    ("told", "matrices"),
    [
        ("model name\t: A\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", True),
        ("model name\t: amx_bf16\nflags\t\t: fpu avx512f avx512_bf16\n", False),  # vectors alone make drawing slower
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_matrix_units_are_told_by_the_flags(told, matrices, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if told is not None:
        file.write_text(told)
    monkeypatch.setattr(processor, "FLAGS", file)
    assert processor.multiplies_bfloat16.__wrapped__() is matrices
