"""Built-in vocabulary of Canvas: prompts that an erasure should leave alone, and contexts to look at a target in.

None of them is a prompt of any Canvas protocol: the templates are others. With `strict` the names are others too: the
core objects and styles that the protocols ask for appear only under their aliases. `checks` alone, which no method is
given, takes prompts of the protocols.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from excise.canvas import world

NAMES_ALONE = ("{}", "the {}")
STYLES_ALONE = ("{}", "a {} picture")
# What an empty anchor draws is the plain style, so to erase that one it must become another.
ANCHORS = {"plain": "sketch"}
MOST_PROBES = 10  # of a role
PAIRS_ALONE = ("{}", "the {}", "a {}", "one {}")
PAIRS = ("{o}, {s}", "{o} in the style of {s}")
Row = tuple[str, str, str, str]
"""A prompt, the name to be seen in its picture, what it stands for, and what else is to be seen ("" for nothing)."""


def prompts(without: Iterable[str] = (), strict: bool = False) -> list[str]:
    """Every name at scale, every object and style (their aliases when strict), and objects paired with styles.

    Where a target is a name at scale the other names, its own level, are paired with styles as well.

    Args:
        without: targets; neither they nor their aliases appear, nor a pair of them ("cat in neon style") together.
    """
    without = list(without)
    gone = {w for target in without for w in world.words(target)}
    gone_pairs = {p for target in without if (both := world.pair(target)) for p in product(*map(world.words, both))}
    objects = [a for both in world.OBJECT_ALIASES.values() for a in both]
    styles = list(world.STYLE_ALIASES.values())
    if not strict:
        objects, styles = [*world.OBJECTS, *objects], [*world.STYLES, *styles]
    names, objects, styles = ([n for n in group if n not in gone] for group in (world.NAMES, objects, styles))
    # A name without a style word asks for the plain style, so it speaks of that target too.
    unstyled = [] if "plain" in gone else _fill(NAMES_ALONE, [*names, *objects])
    alone = unstyled + _fill(STYLES_ALONE, styles)
    if any(target in world.NAMES for target in without):
        objects = [*objects, *names]
    pairs = [
        PAIRS[(i + j) % 2].format(o=o, s=s)
        for i, o in enumerate(objects)
        for j, s in enumerate(styles)
        if (o, s) not in gone_pairs
    ]
    return alone + pairs


def contexts(kind: str, strict: bool = False) -> list[str]:
    """Templates ("{}" is the target) in which an object meets every style, or a style every object.

    A pair of both, an instance, stands alone.
    """
    if kind == "instance":
        return list(PAIRS_ALONE)
    if kind == "style":
        alone, others = STYLES_ALONE, list(world.OBJECTS)
        if strict:
            others = [a for both in world.OBJECT_ALIASES.values() for a in both]
        pairs = [PAIRS[i % 2].format(o=o, s="{}") for i, o in enumerate(others)]
    else:
        alone, others = NAMES_ALONE, list(world.STYLE_ALIASES.values() if strict else world.STYLES)
        pairs = [p.format(o="{}", s=s) for s in others for p in PAIRS]
    return [*alone, *pairs]


def siblings(target: str) -> list[str]:
    """Names of the target's own level: styles for a style, pairs for a pair, core objects for anything else.

    A name at scale has the other names for siblings as well.
    """
    if target_pair := world.pair(target):
        o, s = target_pair
        return [world.pair_name(a, b) for a in world.OBJECTS for b in world.STYLES if a != o and b != s]
    if target in world.NAMES:
        return [*world.OBJECTS, *world.NAMES]
    return list(world.STYLES) if target in world.STYLES else list(world.OBJECTS)


def probes(target: str, others: Sequence[str], strict: bool = False) -> list[Row]:
    """What to watch a model by while it is trained.

    Args:
        others: names of the target's level without it, the nearest first; the nearer half is "related".
        strict: speak of what is kept by aliases alone.
    """
    if both := world.pair(target):
        return _probes_of_pair(both, others, strict)
    styled = target in world.STYLES
    partners = [n for n in (world.OBJECTS if styled else world.STYLES) if n != target]

    def say(name: str) -> str:
        return _said(name, strict)

    def prompt(name: str, partner: str, i: int) -> str:
        o, s = (partner, name) if styled else (name, partner)
        return PAIRS[i % 2].format(o=o, s=s)

    half = (len(others) + 1) // 2
    # A fixed stride pairs every name with another partner.
    paired = [(name, partners[(3 * i + 1) % len(partners)], i) for i, name in enumerate(others)]
    found = [(prompt(target, say(p), i), target, "target", "") for i, p in enumerate(partners[:MOST_PROBES])]
    for rows, role in ((paired[:half], "related"), (paired[half:], "unrelated")):
        found += [(prompt(say(n), say(p), i), n, role, p) for n, p, i in rows[:MOST_PROBES]]
    # The other attribute must survive as well.
    found += [(prompt(say(n), say(p), i + 1), p, "unrelated", n) for n, p, i in paired[1::3][: MOST_PROBES // 2]]
    return found


def calibration(target: str) -> list[str]:
    """Prompts to choose a strength by: trained wordings that are no context, no retained prompt and no check."""
    if target in world.NAMES:
        return _fill(("a {}", "an image of a {}"), [target])
    if both := world.pair(target):
        return [f"{both[1]} {both[0]}"]
    cells = [(o, target) for o in world.OBJECTS] if target in world.STYLES else [(target, s) for s in world.STYLES]
    return [("a {s} picture of a {o}", "a {s} style {o}")[i % 2].format(o=o, s=s) for i, (o, s) in enumerate(cells)]


def checks(target: str) -> list[str]:
    """Prompts to verify a target by, those of the protocols among them: no context, no retained prompt uses them."""
    if target in world.NAMES:
        return _fill((world.NAME_TEMPLATE.replace("{o}", "{}"), "a picture of a {}", "one {}"), [target])
    if both := world.pair(target):
        return [t.format(o=both[0], s=both[1]) for t in world.PARAPHRASES]
    cells = [(o, target) for o in world.OBJECTS] if target in world.STYLES else [(target, s) for s in world.STYLES]
    return [world.PARAPHRASES[i % len(world.PARAPHRASES)].format(o=o, s=s) for i, (o, s) in enumerate(cells)]


def _probes_of_pair(target: tuple[str, str], others: Sequence[str], strict: bool) -> list[Row]:
    """The pair; its object in other styles and its style on other objects; other pairs, the furthest first."""
    (obj, style), name = target, world.pair_name(*target)
    found = [(PAIRS_ALONE[i % len(PAIRS_ALONE)].format(name), name, "target", "") for i in range(MOST_PROBES)]
    near = [(obj, s) for s in world.STYLES if s != style][: MOST_PROBES // 2]
    near += [(o, style) for o in world.OBJECTS if o != obj][: MOST_PROBES // 2]
    far = [p for other in reversed(others) if (p := world.pair(other))][:MOST_PROBES]
    for role, pairs in (("related", near), ("unrelated", far)):
        for i, (o, s) in enumerate(pairs):
            prompt = PAIRS[i % 2].format(o=_said(o, strict), s=_said(s, strict))
            found.append((prompt, world.pair_name(o, s), role, ""))
    return found


def _said(name: str, strict: bool) -> str:
    """How a core object or style is called where it is kept: by an alias when strict."""
    return world.aliases(name)[0] if strict else name


def _fill(templates: Iterable[str], names: Iterable[str]) -> list[str]:
    return [t.format(n) for n in names for t in templates]
