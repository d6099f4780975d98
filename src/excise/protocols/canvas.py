"""Protocols of Canvas. Their prompt templates occur neither in training nor among the built-in retained prompts."""

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
    """Return the protocol of 24 objects in 10 styles with one seed, 200 further names, and the aliases of the targets.

    Groups: `grid` (240 images), `names` (200), `aliases` (the synonym and the Spanish name of an object in every style,
    the synonym of a style on every object; only those of the targets are drawn).
    """
    return _protocol(
        "canvas-mini",
        [*_grid(1), *_names("names", world.NAMES, 1), *_aliases()],
        groups=("grid", "names"),
        target_groups=("grid", "aliases"),
    )


def canvas_full() -> Protocol:
    """Return canvas-mini with five seeds: 1,200 images of the grid, 1,000 of the names, and the aliases with one."""
    return _protocol(
        "canvas-full",
        [*_grid(5), *_names("names", world.NAMES, 5), *_aliases()],
        groups=("grid", "names"),
        target_groups=("grid", "aliases"),
    )


def canvas_aliases() -> Protocol:
    """Return the protocol that asks for a target in other words.

    Groups: `synonyms`, `spanish` (objects only), `paraphrases` (three held-out templates with the name itself); objects
    in every style, styles on every object.
    """
    items = []
    for i in _aliases():
        aliases = world.OBJECT_ALIASES.get(i.target or "")
        spanish = aliases is not None and aliases[1] in i.prompt.split()
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
    """Return the protocol that erases `count` names together and retains 100 others, five seeds a name.

    Groups: `erased`, `kept`. With 200 names all of them are erased, and the 24 core objects are retained.
    """
    erased, retained = world.list_a()[:count], world.list_b()
    if count > len(erased):
        erased, retained = list(world.NAMES)[:count], list(world.OBJECTS)
    both = ("erased", "kept")
    return replace(
        _protocol(
            f"canvas-names-{count}",
            [*_names("erased", erased, 5), *_names("kept", retained, 5)],
            groups=both,
            target_groups=both,
        ),
        score="names",
        labels={"object": tuple(erased)},
        fixed_targets=tuple(erased),
    )


def canvas_pairs() -> Protocol:
    """Return the protocol whose concepts are an object in a style ("cat in neon style"); the grid with five seeds.

    Its score counts the pair, the same style on other objects, the same object in other styles, and all other cells.
    """
    pairs = tuple(world.pair_name(o, s) for o, s in _cells())
    base = _protocol("canvas-pairs", list(_grid(5)), groups=("grid",), target_groups=("grid",))
    return replace(base, score="pairs", labels={"pair": pairs})


def canvas_sequence() -> Protocol:
    """Return the protocol that erases concepts in sequence and tests all earlier ones again; two seeds a cell."""
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
