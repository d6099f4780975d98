"""Built-in vocabulary of Canvas: retained prompts of an erasure, contexts of a target, and prompts to test it by.

No Canvas protocol uses these templates. With `strict` the names differ as well: core objects and styles, which the
protocols ask for, occur only under their aliases. Only `checks`, which no method sees, takes prompts of the protocols.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from excise.canvas import world
from excise.concepts.concept import TEMPLATES, Concept
from excise.concepts.vocabulary import Vocabulary, VocabularySource

if TYPE_CHECKING:
    from excise.families.base import Family

NAMES_ALONE = ("{}", "the {}")
STYLES_ALONE = ("{}", "a {} picture")
# The empty prompt draws the plain style, so the anchor of that style must be another one.
ANCHORS = {"plain": "sketch"}
MOST_PROBES = 10  # for each role
PAIRS_ALONE = ("{}", "the {}", "a {}", "one {}")
PAIRS = ("{o}, {s}", "{o} in the style of {s}")
Row = tuple[str, str, str, str]
"""A probe: prompt, the name its image should show, its role, and a second name the image should show ("" for none)."""
CANVAS = ("canvas", "canvas-strict")
"""Names of both vocabularies, the strict one last."""


class CanvasNames(VocabularySource):
    """The names of Canvas.

    Args:
        strict: name what is retained by aliases alone, which the protocols do not use.
    """

    anchors = ANCHORS

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def vocabulary(self, concepts: Sequence[Concept], family: Family, bare: bool) -> Vocabulary:
        return Vocabulary(
            CANVAS[self.strict],
            prompts([word for c in concepts for word in c.words], self.strict),
            {kind: contexts(kind, self.strict) for kind in TEMPLATES},
            ANCHORS,
            lambda concept: siblings(concept.name),
            partial(probes, strict=self.strict),
            lambda concept: calibration(concept.name),
            self.checks,
        )

    def checks(self, concept: Concept) -> list[str]:
        """The prompts of `checks`, whatever the kind."""
        return checks(concept.name)

    def kind_of(self, name: str) -> str | None:
        """A style is a style, an object in a style an instance; other names are objects."""
        if name in world.STYLES:
            return "style"
        return "instance" if world.pair(name) else None


ALL_NAMES = partial(CanvasNames, strict=False)
ALIASES_ONLY = partial(CanvasNames, strict=True)


def prompts(without: Iterable[str] = (), strict: bool = False) -> list[str]:
    """Return retained prompts: all names and styles alone, and objects paired with styles.

    If a target is one of the 200 further names, the others of these are paired with styles as well.

    Args:
        without: targets; prompts with them or their aliases are left out, for a pair ("cat in neon style") only those
            with both halves.
        strict: name core objects and styles by their aliases only.
    """
    without = list(without)
    excluded = {w for target in without for w in world.words(target)}
    excluded_pairs = {p for target in without if (both := world.pair(target)) for p in product(*map(world.words, both))}
    objects = [a for both in world.OBJECT_ALIASES.values() for a in both]
    styles = list(world.STYLE_ALIASES.values())
    if not strict:
        objects, styles = [*world.OBJECTS, *objects], [*world.STYLES, *styles]
    names, objects, styles = ([n for n in group if n not in excluded] for group in (world.NAMES, objects, styles))
    # A name without a style word asks for the plain style, so such prompts would contain that target.
    unstyled = [] if "plain" in excluded else _fill(NAMES_ALONE, [*names, *objects])
    alone = unstyled + _fill(STYLES_ALONE, styles)
    if any(target in world.NAMES for target in without):
        objects = [*objects, *names]
    pairs = [
        PAIRS[(i + j) % 2].format(o=o, s=s)
        for i, o in enumerate(objects)
        for j, s in enumerate(styles)
        if (o, s) not in excluded_pairs
    ]
    return alone + pairs


def contexts(kind: str, strict: bool = False) -> list[str]:
    """Return templates with "{}" for the target: an object in every style, a style on every object, a pair alone.

    Args:
        kind: of the target; "instance" is a pair of object and style.
        strict: name the other half by its aliases only.
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
    """Return the names of the target's level: styles for a style, pairs for a pair, core objects for all others.

    For one of the 200 further names these are included as well.
    """
    if target_pair := world.pair(target):
        o, s = target_pair
        return [world.pair_name(a, b) for a in world.OBJECTS for b in world.STYLES if a != o and b != s]
    if target in world.NAMES:
        return [*world.OBJECTS, *world.NAMES]
    return list(world.STYLES) if target in world.STYLES else list(world.OBJECTS)


def probes(target: str, others: Sequence[str], strict: bool = False) -> list[Row]:
    """Return prompts for monitoring a model during training, with the roles "target", "related" and "unrelated".

    Args:
        target: a name or a pair.
        others: the other names of the target's level, nearest first; the nearer half is "related".
        strict: use aliases for the names to retain.
    """
    if both := world.pair(target):
        return _probes_of_pair(both, others, strict)
    styled = target in world.STYLES
    partners = [n for n in (world.OBJECTS if styled else world.STYLES) if n != target]

    def word(name: str) -> str:
        return _word(name, strict)

    def prompt(name: str, partner: str, i: int) -> str:
        o, s = (partner, name) if styled else (name, partner)
        return PAIRS[i % 2].format(o=o, s=s)

    half = (len(others) + 1) // 2
    # A fixed stride gives neighbouring names different partners.
    paired = [(name, partners[(3 * i + 1) % len(partners)], i) for i, name in enumerate(others)]
    rows = [(prompt(target, word(p), i), target, "target", "") for i, p in enumerate(partners[:MOST_PROBES])]
    for group, role in ((paired[:half], "related"), (paired[half:], "unrelated")):
        rows += [(prompt(word(n), word(p), i), n, role, p) for n, p, i in group[:MOST_PROBES]]
    # The other attribute must be retained as well.
    rows += [(prompt(word(n), word(p), i + 1), p, "unrelated", n) for n, p, i in paired[1::3][: MOST_PROBES // 2]]
    return rows


def calibration(target: str) -> list[str]:
    """Return prompts for choosing a strength: templates of the models' training, distinct from contexts and checks."""
    if target in world.NAMES:
        return _fill(("a {}", "an image of a {}"), [target])
    if both := world.pair(target):
        return [f"{both[1]} {both[0]}"]
    cells = [(o, target) for o in world.OBJECTS] if target in world.STYLES else [(target, s) for s in world.STYLES]
    return [("a {s} picture of a {o}", "a {s} style {o}")[i % 2].format(o=o, s=s) for i, (o, s) in enumerate(cells)]


def checks(target: str) -> list[str]:
    """Return prompts for verifying a target: those of the protocol's grid, which no context or retained prompt uses.

    The held-out paraphrases would not do: the untouched models draw what they ask for in two of three images.
    """
    if target in world.NAMES:
        return _fill((world.NAME_TEMPLATE.replace("{o}", "{}"), "a picture of a {}", "one {}"), [target])
    if both := world.pair(target):
        return [world.grid_prompt(*both)]
    cells = [(o, target) for o in world.OBJECTS] if target in world.STYLES else [(target, s) for s in world.STYLES]
    return [world.grid_prompt(o, s) for o, s in cells]


def _probes_of_pair(target: tuple[str, str], others: Sequence[str], strict: bool) -> list[Row]:
    """Return probes of the pair, of its object in other styles and its style on other objects, and of distant pairs."""
    (obj, style), name = target, world.pair_name(*target)
    rows = [(PAIRS_ALONE[i % len(PAIRS_ALONE)].format(name), name, "target", "") for i in range(MOST_PROBES)]
    near = [(obj, s) for s in world.STYLES if s != style][: MOST_PROBES // 2]
    near += [(o, style) for o in world.OBJECTS if o != obj][: MOST_PROBES // 2]
    far = [p for other in reversed(others) if (p := world.pair(other))][:MOST_PROBES]
    for role, pairs in (("related", near), ("unrelated", far)):
        for i, (o, s) in enumerate(pairs):
            prompt = PAIRS[i % 2].format(o=_word(o, strict), s=_word(s, strict))
            rows.append((prompt, world.pair_name(o, s), role, ""))
    return rows


def _word(name: str, strict: bool) -> str:
    """Return the word for a retained object or style: its name, or if strict its first alias if it has one."""
    aliases = world.aliases(name)
    return aliases[0] if strict and aliases else name


def _fill(templates: Iterable[str], names: Iterable[str]) -> list[str]:
    return [t.format(n) for n in names for t in templates]
