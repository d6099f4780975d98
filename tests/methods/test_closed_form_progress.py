"""Closed forms tell what they do: encoding, reading layers, solving."""

from __future__ import annotations

import pytest

from excise import erase
from excise.edits.fuse import fuse
from excise.methods.base import Context


@pytest.mark.parametrize(
    ("method", "settings", "stages"),
    [
        ("emcid", {"layers": 1}, ["encoding prompts", "reading anchors", "reading layers"]),
        ("uce", {"robust": 2}, ["encoding prompts", "solving"]),
    ],
)
def test_every_stage_is_told_to_its_end(pipe, method, settings, stages):
    told: dict[str, list[tuple[float, int]]] = {}

    def say(stage: str, done: float, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    erase(pipe, ["cat"], method, preserve=["dog"], vocabulary=None, context=Context(say=say), **settings)
    assert list(told) == stages
    for counts in told.values():
        done = [d for d, _ in counts]
        assert done == sorted(done)
        assert counts[-1][0] == counts[-1][1] > 0


def test_fusing_tells_how_many_prompts_are_encoded(pipe):
    told: list[tuple[str, float, int]] = []
    edits = [erase(pipe, [name], "uce", vocabulary=None) for name in ("cat", "dog")]
    fuse(pipe, edits, preserve=["tree"], vocabulary="none", say=lambda *event: told.append(event))
    assert {stage for stage, _, _ in told} == {"encoding prompts"}
    assert told[-1][1] == told[-1][2] > 0
