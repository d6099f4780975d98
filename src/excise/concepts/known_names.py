"""What is known of names before a model is loaded: their kind, and names that are likely slips. No torch here.

The lists are in `known/` and, as far as those names are unambiguous, in `ordinary/`. They serve warnings alone: no list
decides what is erased.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from excise.concepts.concept import Concept, normalise_name, read_names
from excise.errors import ConceptError, ExciseWarning, closest

_HERE = Path(__file__).parent
# Lists by kind. Given names (ordinary/person.txt) are not among them: nobody in particular is meant there.
_LISTS = {
    "style": ("known/style.txt", "ordinary/style.txt"),
    "person": ("known/person.txt",),
    "instance": ("known/instance.txt", "ordinary/instance.txt"),
    "explicit": ("known/explicit.txt",),
    "object": ("ordinary/object.txt",),
}
_CALLED = {
    "style": "an artist or a style",
    "person": "a person",
    "instance": "a character or a brand",
    "explicit": "explicit content",
}
# Words around a name that say of what kind the whole is.
_STYLED = re.compile(
    r"(?:(?:in )?the (?:art )?style of|(?:art|paintings?|works?|drawings?) (?:by|of)) (?P<of>.+)"
    r"|(?P<by>.+?)(?:'s?)? (?:art ?)?(?:style|paintings?|artworks?)"
)
_BOTH = re.compile(r"\s+(?:and|&|\+|or)\s+")
LONG = 7  # letters; shorter words of a language differ in one letter too often for a warning


def kind_by_name(name: str) -> str | None:
    """Return the kind of concept that a well-known name is, or None for a name that is in no list.

    >>> kind_by_name("Van Gogh"), kind_by_name("the style of Monet"), kind_by_name("teapot")
    ('style', 'style', None)
    """
    words = normalise_name(name)
    if words in _kinds():
        return _kinds()[words]
    match = _STYLED.fullmatch(words)
    return "style" if match and _kinds().get(match["of"] or match["by"]) == "style" else None


def nearest_name(name: str, names: Collection[str] | None = None) -> str | None:
    """Return a known name that differs from an unknown one by a slip of the keyboard, or None.

    Two neighbouring letters in the wrong order are a slip at any length, a letter too many, too few or another one in
    names of at least seven letters, because short words of a language differ so from one another.

    Args:
        names: the known names, by default those of all lists.

    >>> nearest_name("cta"), nearest_name("Pikachuu"), nearest_name("bat")
    ('cat', 'Pikachu', None)
    """
    known = _spellings() if names is None else {normalise_name(n): n for n in names}
    word = normalise_name(name)
    if word in known or len(word) < 3:
        return None
    for i in range(len(word) - 1):
        if word[i] != word[i + 1] and (swapped := word[:i] + word[i + 1] + word[i] + word[i + 2 :]) in known:
            return known[swapped]
    if len(word) < LONG:
        return None
    return next((known[other] for other in known if len(other) >= LONG and _one_edit(word, other)), None)


def warn_of_names(concepts: Sequence[str | Concept], kind: str | None = None, option: str = "--concept") -> None:
    """Warn of names that are probably not meant as they are given.

    These are a well-known name of another kind that is erased as an object, two names in one text, and a name that is
    one slip away from a well-known one.

    Args:
        kind: as the caller gave it; with one, nothing is said of kinds.
        option: by which a name is given on the command line.
    """
    for concept in concepts:
        name = concept if isinstance(concept, str) else concept.name
        of = "object" if isinstance(concept, str) else concept.kind
        by_name = kind_by_name(name)
        if kind is None and of == "object" and by_name not in (None, "object"):
            _warn(
                f"'{name}' is erased as an object, but the name is known as {_CALLED[str(by_name)]}; if that is meant, "
                f'add --kind {by_name} (in Python: kind="{by_name}").'
            )
        elif by_name is None and (parts := _two_names(name)):
            each = " ".join(f"{option} {shlex.quote(part)}" for part in parts)
            _warn(f"'{name}' is taken as one phrase; if two concepts are meant, give each by itself: {each}.")
        elif by_name is None and (near := nearest_name(name)):
            _warn(f"'{name}' is one slip away from '{near}'; if that is meant, stop here and give the name anew.")


def warn_of_names_outside(
    world: Collection[str], concepts: Sequence[str | Concept], model: str, so: str = "nothing of it can be erased"
) -> None:
    """Warn of names that a built-in model was never trained on, whose pictures an erasure can hardly change.

    Args:
        world: the names that the model draws, normalised.
        model: for the message. so: what follows, for the message.
    """
    for concept in concepts:
        name = concept if isinstance(concept, str) else concept.name
        if normalise_name(name) not in world:
            near = nearest_name(name, world) or closest(name, world)
            meant = f" Did you mean '{near}'?" if near else ""
            _warn(f"{model} was never trained on '{name}', so {so}.{meant}")


def check_no_slips(world: Collection[str], names: Sequence[str], model: str, option: str = "--concept") -> None:
    """Refuse names that a built-in model was never trained on and that are one slip away from one that it draws.

    Nothing of them could be erased, so such an edit is never what was meant.

    Args:
        world: the names that the model draws, normalised. model: for the message.
        option: by which a name is given.

    Raises:
        ConceptError: with the name that is meant.
    """
    for name in names:
        word = normalise_name(name)
        if word in world:
            continue
        near = nearest_name(name, world) or next((w for w in sorted(world) if len(word) > 3 and _one_edit(word, w)), "")
        if near:
            raise ConceptError(
                f"{model} was never trained on '{name}', so nothing of it can be erased. Did you mean '{near}'? Then "
                f"give {option} {shlex.quote(near)}."
            )


def _two_names(name: str) -> list[str]:
    """The two names that a text joins by a word such as "and", where both are known ones."""
    parts = _BOTH.split(normalise_name(name))
    bare = [re.sub(r"^(a|an|the) ", "", part) for part in parts]
    return bare if len(bare) == 2 and all(part in _kinds() for part in bare) else []


def _one_edit(a: str, b: str) -> bool:
    """Whether two different words differ by one letter that is added, left out or another; a plural is no slip."""
    if {a + "s", a + "es"} & {b} or {b + "s", b + "es"} & {a} or abs(len(a) - len(b)) > 1:
        return False
    short, long = sorted((a, b), key=len)
    i = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    return short[i:] == long[i + 1 :] if len(short) < len(long) else short[i + 1 :] == long[i + 1 :]


@cache
def _kinds() -> dict[str, str]:
    """The kind of every known name."""
    return {normalise_name(name): kind for kind in reversed(_LISTS) for name in _names(kind)}


@cache
def _spellings() -> dict[str, str]:
    """Every known name as it is written, by its normalised form."""
    return {normalise_name(name): name for kind in _LISTS for name in _names(kind)}


@cache
def _names(kind: str) -> tuple[str, ...]:
    return tuple(name for file in _LISTS[kind] for name in read_names(_HERE / file))


def _warn(message: str) -> None:
    warnings.warn(message, ExciseWarning, stacklevel=1)  # the same place for all callers, so that it is shown once
