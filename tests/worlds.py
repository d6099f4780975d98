"""A world small enough for any test: a protocol of a few prompts, and a judge that reads pixels instead of pictures."""

from __future__ import annotations

import hashlib

import numpy as np

from excise.protocols.base import Item, Protocol
from excise.registry import Record

OBJECTS, STYLES = ("cat", "dog", "car"), ("plain", "neon")


class PixelJudge:
    """Takes an image's label from its bytes: arbitrary, but the same for the same image."""

    name = "pixel-judge"

    def verdicts(self, images):
        digests = [hashlib.sha256(np.asarray(i).tobytes()).digest() for i in images]
        return {
            "object": [(*OBJECTS, "none")[d[0] % 4] for d in digests],
            "style": [STYLES[d[1] % 2] for d in digests],
        }


class Truthful:
    """Knows what was asked for and says so, or always says `lie`."""

    name = "truthful"

    def __init__(self, items, lie: str | None = None) -> None:
        self.items, self.lie = items, lie

    def verdicts(self, images):
        return {a: [self.lie or i.asked[a] for i in self.items] for a in ("object", "style")}


def small_world(seeds: int = 2, steps: int = 2) -> Protocol:
    items = [
        Item("grid", f"a {o} in {s} style", {"object": o, "style": s}, index)
        for index in range(seeds)
        for o in OBJECTS
        for s in STYLES
    ]
    items += [Item("aliases", f"a kitty in {s} style", {"object": "cat", "style": s}, target="cat") for s in STYLES]
    return Protocol(
        name="small-world",
        items=tuple(items),
        steps=steps,
        guidance=2.0,
        judge="pixel",
        score="grid",
        labels={"object": OBJECTS, "style": STYLES},
        groups=("grid",),
        target_groups=("grid", "aliases"),
    )


def pixel_judge(weights=None) -> PixelJudge:
    return PixelJudge()


def sequence_world() -> Protocol:
    from dataclasses import replace

    return replace(small_world(), name="small-sequence", score="sequence")


def register(monkeypatch) -> None:
    """Make the small world known for the time of a test."""
    from excise.judges import JUDGES
    from excise.protocols import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS._entries, "small-world", Record("worlds:small_world", "a test world"))
    monkeypatch.setitem(PROTOCOLS._entries, "small-sequence", Record("worlds:sequence_world", "a test world"))
    monkeypatch.setitem(JUDGES._entries, "pixel", Record("worlds:pixel_judge", "a test judge"))


def run(family, *concepts, **options):
    """Evaluate a model in the small world."""
    from excise.evaluation.evaluate import evaluate

    return evaluate(family, concepts, protocol="small-world", **options)
