"""Protocols of the built-in world."""

from __future__ import annotations

from excise.canvas import world
from excise.protocols.base import Item, Protocol

STEPS = 20
GUIDANCE = 4.0


def canvas_mini() -> Protocol:
    """The 24 x 10 grid with one seed, the 200 names at scale, and the grid of every alias.

    Groups: `grid` (240 images), `names` (200), `aliases` (object synonyms and Spanish names in every style, style
    synonyms on every object; an evaluation draws those of its targets only).
    """
    grid = [Item("grid", world.grid_prompt(o, s), o, s, 0) for o in world.OBJECTS for s in world.STYLES]
    names = [Item("names", world.name_prompt(n), n, "plain", 0) for n in world.NAMES]
    objects = [
        Item("aliases", world.grid_prompt(alias, s), o, s, 0)
        for o in world.OBJECTS
        for alias in world.aliases(o)
        for s in world.STYLES
    ]
    styles = [
        Item("aliases", world.grid_prompt(o, alias), o, s, 0)
        for s in world.STYLES
        for alias in world.aliases(s)
        for o in world.OBJECTS
    ]
    return Protocol("canvas-mini", (*grid, *names, *objects, *styles), STEPS, GUIDANCE, "canvas-judge-a")
