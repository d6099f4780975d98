"""Attacks on tiny models: an arena, and a whole suite with short searches."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from excise.attacks.base import Arena, Guides
from excise.attacks.suite import SuiteOptions, attack
from excise.concepts.concept import Concept
from excise.families import family_of

SHORT = {"iterations": 2, "generations": 2, "steps": 2, "population": 4, "candidates": 4, "batch": 2, "prompts": 2}
ORACLE = Path(__file__).parents[1] / "recipes" / "oracle-1" / "canvas-sd"


def sees_all(images, names):
    return [True] * len(images)


def arena_of(pipe, images: int = 2, **more) -> Arena:
    family = family_of(pipe)
    prompts = ["a cat", "the cat"]
    drawn = family.sample(prompts, [0, 1], steps=2, guidance=2.0, batch=2)
    latents = family.latents(drawn)
    guides = Guides(prompts, latents, ["a dog", "the dog"], latents.flip(0))
    return Arena(
        family,
        lambda: nullcontext(family),
        Concept("cat"),
        ["an image of a cat", "one cat"],
        guides,
        others=["dog", "tree"],
        images=images,
        steps=3,
        guidance=2.0,
        **more,
    )


def run(pipe, concept="cat", edits=(), say=lambda *_: None, **more):
    options = {"suite": "standard", "tests": 2, "images": 2, "judge": sees_all, "others": ["dog", "tree"]}
    return attack(pipe, concept, edits, SuiteOptions(**{**options, "settings": SHORT, **more}), say)
