"""Protocols of the built-in world. Their templates are never trained on, and no retained prompt is one of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from excise.canvas import world
from excise.protocols.base import Item, Protocol

STEPS = 12
GUIDANCE = 4.0
SCALES = (1, 10, 50, 100)


def canvas_mini() -> Protocol:
    """The 24 x 10 grid with one seed, the 200 names at scale, and the grid of every alias.

    Groups: `grid` (240 images), `names` (200), `aliases` (object synonyms and Spanish names in every style, style
    synonyms on every object; an evaluation draws those of its targets only).
    """
    return _protocol(
        "canvas-mini",
        [*_grid(1), *_names("names", world.NAMES, 1), *_aliases()],
        groups=("grid", "names"),
        target_groups=("grid", "aliases"),
    )


def canvas_full() -> Protocol:
    """As canvas-mini with five seeds: 1,200 images of the grid, 1,000 of the names, and the aliases."""
    return _protocol(
        "canvas-full",
        [*_grid(5), *_names("names", world.NAMES, 5), *_aliases()],
        groups=("grid", "names"),
        target_groups=("grid", "aliases"),
    )


def canvas_aliases() -> Protocol:
    """How a target is asked for in other words: its synonym, its Spanish name, and paraphrased prompts.

    Groups: `synonyms`, `spanish` (objects only), `paraphrases` (three held-out wordings with the name itself), each
    in every style or on every object.
    """
    items = []
    for i in _aliases():
        own = world.OBJECT_ALIASES.get(i.target or "")
        spanish = own is not None and own[1] in i.prompt.split()
        items.append(replace(i, group="spanish" if spanish else "synonyms"))
    for template in world.PARAPHRASES:
        for target in (*world.OBJECTS, *world.STYLES):
            items += [
                Item("paraphrases", template.format(o=o, s=s), {"object": o, "style": s}, target=target)
                for o, s in _cells()
                if target in (o, s)
            ]
    everything = ("synonyms", "spanish", "paraphrases")
    return replace(
        _protocol("canvas-aliases", items, groups=("paraphrases",), target_groups=everything), score="aliases"
    )


def canvas_names(count: int) -> Protocol:
    """`count` names erased together, 100 kept: groups `erased` and `kept`, five seeds a name.

    Of 200 names all are erased, and the core objects are what is kept.
    """
    gone, kept = world.list_a()[:count], world.list_b()
    if count > len(gone):
        gone, kept = list(world.NAMES)[:count], list(world.OBJECTS)
    both = ("erased", "kept")
    return replace(
        _protocol(
            f"canvas-names-{count}",
            [*_names("erased", gone, 5), *_names("kept", kept, 5)],
            groups=both,
            target_groups=both,
        ),
        score="names",
        labels={"object": tuple(gone)},
        fixed_targets=tuple(gone),
    )


def canvas_pairs() -> Protocol:
    """One object in one style as the concept ("cat in neon style"), at a finer scale; five seeds a cell.

    Scores: UA on the pair, the same style on other objects, the same object in other styles, unrelated cells.
    """
    pairs = tuple(world.pair_name(o, s) for o, s in _cells())
    base = _protocol("canvas-pairs", list(_grid(5)), groups=("grid",), target_groups=("grid",))
    return replace(base, score="pairs", labels={"pair": pairs})


def canvas_sequence() -> Protocol:
    """Concepts erased one after another, every earlier one tested again; the grid with two seeds."""
    base = _protocol("canvas-sequence", list(_grid(2)), groups=("grid",), target_groups=("grid",))
    return replace(base, score="sequence")


canvas_names_1 = partial(canvas_names, 1)
canvas_names_10 = partial(canvas_names, 10)
canvas_names_50 = partial(canvas_names, 50)
canvas_names_100 = partial(canvas_names, 100)
canvas_names_200 = partial(canvas_names, 200)


def _protocol(name: str, items: Sequence[Item], groups: tuple[str, ...], target_groups: tuple[str, ...]) -> Protocol:
    return Protocol(
        name=name,
        items=tuple(items),
        steps=STEPS,
        guidance=GUIDANCE,
        judge="canvas-judge-a",
        second="canvas-judge-b",
        score="grid",
        labels={"object": tuple(world.OBJECTS), "style": world.STYLES},
        groups=groups,
        target_groups=target_groups,
        features="canvas-image-tower",
        image_size=64,
    )


def _cells() -> list[tuple[str, str]]:
    return [(o, s) for o in world.OBJECTS for s in world.STYLES]


def _grid(seeds: int) -> Iterable[Item]:
    for index in range(seeds):
        for o, s in _cells():
            yield Item("grid", world.grid_prompt(o, s), {"object": o, "style": s}, index)


def _names(group: str, names: Iterable[str], seeds: int) -> Iterable[Item]:
    for index in range(seeds):
        for name in names:
            yield Item(group, world.name_prompt(name), {"object": name, "style": "plain"}, index)


def _aliases() -> Iterable[Item]:
    for o in world.OBJECTS:
        for alias in world.aliases(o):
            for s in world.STYLES:
                yield Item("aliases", world.grid_prompt(alias, s), {"object": o, "style": s}, target=o)
    for s in world.STYLES:
        for alias in world.aliases(s):
            for o in world.OBJECTS:
                yield Item("aliases", world.grid_prompt(o, alias), {"object": o, "style": s}, target=s)
