"""bfloat16 is taken where the device computes in it; asked for elsewhere, it is said that it costs time."""

from __future__ import annotations

import logging

import pytest
import torch

from excise.families import load
from excise.support import precision


@pytest.fixture(params=["AVX2", "AVX512"])
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    precision._warn_of_slowness.cache_clear()
    return str(request.param)


def test_training_of_the_built_in_models_takes_what_is_fast(cpu: str) -> None:
    with precision.fastest("cpu"):
        product = torch.eye(2) @ torch.eye(2)
    assert product.dtype == {"AVX2": torch.float32, "AVX512": torch.bfloat16}[cpu]
    assert precision.has_bfloat16("cuda")


def test_bfloat16_asked_for_is_given_and_its_price_said_once(cpu: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for asked in (False, True, True):
            with precision.bfloat16("cpu", asked):
                assert (torch.eye(2) @ torch.eye(2)).dtype == (torch.bfloat16 if asked else torch.float32)
    said = [r.getMessage() for r in caplog.records if "bfloat16" in r.getMessage()]
    assert len(said) == (cpu == "AVX2")
    assert all("AVX2" in s and "float32" in s for s in said)


def test_a_model_loaded_in_half_precision_says_so_too(cpu: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for dtype in ("auto", "float32", "float16"):
            load("canvas-sd", dtype=dtype, device="cpu")
    said = [r.getMessage() for r in caplog.records if "instructions" in r.getMessage()]
    assert ["float16" in s for s in said] == ([True] if cpu == "AVX2" else [])
