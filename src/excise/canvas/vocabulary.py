"""Built-in vocabulary of Canvas: prompts that an erasure should leave alone, and contexts to look at a target in.

None of them is a prompt of any Canvas protocol: the templates are others. With `strict` the names are others too: the
core objects and styles that the protocols ask for appear only under their aliases.
"""

from __future__ import annotations

from collections.abc import Iterable

from excise.canvas import world

NAMES_ALONE = ("{}", "the {}")
STYLES_ALONE = ("{}", "a {} picture")
# What an empty anchor draws is the plain style, so to erase that one it must become another.
ANCHORS = {"plain": "sketch"}
PAIRS = ("{o}, {s}", "{o} in the style of {s}")


def prompts(without: Iterable[str] = (), strict: bool = False) -> list[str]:
    """Every name at scale, every object and style (their aliases when strict), and objects paired with styles.

    Args:
        without: targets; neither they nor their aliases appear.
    """
    gone = {w for target in without for w in (target, *world.aliases(target))}
    objects = [a for both in world.OBJECT_ALIASES.values() for a in both]
    styles = list(world.STYLE_ALIASES.values())
    if not strict:
        objects, styles = [*world.OBJECTS, *objects], [*world.STYLES, *styles]
    names, objects, styles = ([n for n in group if n not in gone] for group in (world.NAMES, objects, styles))
    # A name without a style word asks for the plain style, so it speaks of that target too.
    unstyled = [] if "plain" in gone else _fill(NAMES_ALONE, [*names, *objects])
    alone = unstyled + _fill(STYLES_ALONE, styles)
    pairs = [PAIRS[(i + j) % 2].format(o=o, s=s) for i, o in enumerate(objects) for j, s in enumerate(styles)]
    return alone + pairs


def contexts(kind: str, strict: bool = False) -> list[str]:
    """Templates ("{}" is the target) in which an object meets every style, or a style every object."""
    if kind == "style":
        alone, others = STYLES_ALONE, list(world.OBJECTS)
        if strict:
            others = [a for both in world.OBJECT_ALIASES.values() for a in both]
        pairs = [PAIRS[i % 2].format(o=o, s="{}") for i, o in enumerate(others)]
    else:
        alone, others = NAMES_ALONE, list(world.STYLE_ALIASES.values() if strict else world.STYLES)
        pairs = [p.format(o="{}", s=s) for s in others for p in PAIRS]
    return [*alone, *pairs]


def _fill(templates: Iterable[str], names: Iterable[str]) -> list[str]:
    return [t.format(n) for n in names for t in templates]
