"""Concepts to remove, and the prompts that contain them. Nothing here imports torch."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from excise.concepts.columns import ENDINGS, read_entries, split_names
from excise.errors import ConceptError, ExciseWarning, unknown

MAX_LENGTH = 200
NOTHING = "nothing (the empty prompt)"  # how an empty anchor is shown
_FORBIDDEN = re.compile(r"[{}\x00-\x1f\x7f\u2028\u2029]")

# Prompts in which a concept is erased or retained; "{}" is its name.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": ("{}", "a {}", "an image of a {}", "a picture of the {}, colourful", "{} on a table"),
    "instance": ("{}", "a photo of {}", "an image of {}", "{} in the city", "a drawing of {}"),
    "style": ("{}", "{} style", "an image in {} style", "a painting in the style of {}", "{} picture of a house"),
    "person": ("{}", "a photo of {}", "a portrait of {}", "{} smiling", "{} on the red carpet"),
    "explicit": ("{}", "{} person", "a photo of a {} person", "a painting of a {} body"),
}
KINDS = tuple(TEMPLATES)

# Prompts of published programs, by the name that a closed form's setting `prompts` has for them and by kind: the bare
# name (UCE, SPEED, RECE, ScaPre), and the thirty wordings of MACE's refinement (arXiv 2403.06135), which are part of
# its recipe. CLIP reads no capitals.
_MACE_THINGS = (
    *(f"{{}} {tail}" for tail in ("in a photo", "in a snapshot")),
    *(f"{head} {{}}" for head in (
        "a snapshot of", "a photograph showcasing", "an illustration of", "a digital rendering of",
        "a visual representation of", "a graphic of", "a shot of", "a photo of", "a black and white image of",
        "a depiction in portrait form of",
    )),
    "a scene depicting {} during a public gathering",
    "{} captured in an image",
    *(f"{head} {{}}" for head in (
        "a depiction created with oil paints capturing", "an image of", "a drawing capturing the essence of",
        "an official photograph featuring", "a detailed sketch of",
    )),
    *(f"{{}} {tail}" for tail in ("during sunset/sunrise", "in a detailed portrait")),
    *(f"{head} {{}}" for head in (
        "an official photo of", "historic photo of", "detailed portrait of", "a painting of", "hd picture of",
        "magazine cover capturing", "painting-like image of", "hand-drawn art of", "an oil portrait of",
    )),
)  # fmt: skip
PROGRAM_PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "name": dict.fromkeys(KINDS, ("{}",)),
    "mace": dict.fromkeys(KINDS, _MACE_THINGS),
}

# Prompts in which an erasure is verified afterwards; no method sees them.
CHECKS: dict[str, tuple[str, ...]] = {
    "object": ("a photograph with a {}", "there is a {} here", "two of them: {}", "a large {} outdoors"),
    "instance": ("{}, full body", "there is {} here", "a poster of {}", "{} playing outdoors"),
    "style": ("a landscape by {}", "flowers, {}", "a street at night, {}", "a portrait in the manner of {}"),
    "person": ("{} at an interview", "a close-up of {}", "{} in a crowd", "a newspaper picture of {}"),
    "explicit": ("a {} figure", "{} in a bedroom", "an artistic picture, {}", "a {} statue"),
}


@dataclass(frozen=True)
class Concept:
    """One thing to remove.

    Attributes:
        name: as written in prompts.
        kind: object, instance (a character, a logo), style, person or explicit.
        anchor: the words that the model should read instead; None leaves the choice to the method's preset.
        synonyms: other words for the concept, removed with it.
    """

    name: str
    kind: str = "object"
    anchor: str | None = None
    synonyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in KINDS:
            raise unknown("concept kind", self.kind, KINDS)
        if self.anchor:
            check_name(self.anchor, "anchor")
        for synonym in self.synonyms:
            check_name(synonym, "synonym")

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)

    def prompts(self, word: str | None = None) -> list[str]:
        """Return the kind's templates filled with `word` (by default the name)."""
        return fill(TEMPLATES[self.kind], self.name if word is None else word)


def check_name(name: str, what: str = "concept") -> str:
    """Return `name` if it may be used as a name.

    Raises:
        ConceptError: empty, too long, or with braces or control characters.
    """
    if not name.strip():
        raise ConceptError(
            f"the {what} is empty; give its name as it is written in prompts, for example: --concept cat"
        )
    if len(name) > MAX_LENGTH:
        raise ConceptError(f"the {what} has {len(name)} characters; at most {MAX_LENGTH} are allowed. Shorten it.")
    forbidden = _FORBIDDEN.search(name)
    if forbidden:
        raise ConceptError(
            f"the {what} {name!r} contains {forbidden.group()!r}; braces and control characters are not allowed in a "
            "name. Write it as it stands in prompts."
        )
    return name


def as_concepts(concepts: Iterable[str | Concept], kind: str | None = None) -> list[Concept]:
    """Turn names into concepts, and refuse duplicates.

    Args:
        concepts: at least one name or concept; a text is one name.
        kind: of concepts that are given by name alone; None means object.

    Raises:
        ConceptError: there is none, or one is given twice.
    """
    concepts = [concepts] if isinstance(concepts, (str, Concept)) else list(concepts)
    warn_of_commas(concepts, "--concept")
    checked = [c if isinstance(c, Concept) else Concept(c, kind or "object") for c in concepts]
    if not checked:
        raise ConceptError("no concept given; name at least one, for example: --concept cat")
    seen: dict[str, Concept] = {}
    for concept in checked:
        for word in concept.words:
            other = seen.setdefault(normalise_name(word), concept)
            if other is concept:
                continue
            if normalise_name(word) == normalise_name(concept.name) == normalise_name(other.name):
                raise ConceptError(f"the concept '{concept.name}' is given twice; name each one once.")
            raise ConceptError(
                f"'{word}' belongs to '{other.name}' and to '{concept.name}'; leave it to one of the two."
            )
    return checked


def check_preserve(concepts: Sequence[Concept], preserve: Sequence[str]) -> None:
    """Refuse a list of names to preserve that contains a target.

    Raises:
        ConceptError: a name is in both lists, or a text stands in place of a list.
    """
    if isinstance(preserve, str):
        raise ConceptError(f"what to preserve is the text '{preserve}'; give a list of names: ['{preserve}'].")
    targets = {normalise_name(w): w for c in concepts for w in c.words}
    for name in preserve:
        check_name(name, "name to preserve")
        if normalise_name(name) in targets:
            raise ConceptError(
                f"'{name}' is to be erased and to be preserved at once; take it out of --concept or --preserve."
            )


def read_names(path: Path, prompts: bool = True) -> list[str]:
    """Read names from a text file (one a line, # for comments), a column of a table, or a YAML list.

    These are the files that `read_concepts` (concept_file.py) reads. A name in several rows of a table counts once.

    Args:
        prompts: whether a column of whole prompts may stand in for names, as in lists of prompts to retain.

    Raises:
        ConceptError: the file cannot be read, holds no names, or none of its columns is known to hold names.
    """
    entries = read_entries(path, "names from", prompts)
    names = [check_name(entry["name"].strip(), "name to preserve") for entry in entries if "name" in entry]
    if not names:
        raise ConceptError(
            f"{path} holds no names; expected one a line, a table with the column `name`, or a YAML list."
        )
    return list(dict.fromkeys(names)) if path.suffix.lower() in ENDINGS else names


def warn_of_commas(names: Iterable[str | Concept], option: str) -> None:
    """Warn that a text that looks like several names is taken as one phrase, and say how to give several."""
    for name in names:
        parts = split_names(name) if isinstance(name, str) else []
        if len(parts) > 1:
            each = " ".join(f"{option} {shlex.quote(p)}" for p in parts)
            warnings.warn(
                f"'{name}' is taken as one phrase, not as {len(parts)} names; if these are meant, give each by itself: "
                f"{each} (in Python: {json.dumps(parts, ensure_ascii=False)}).",
                ExciseWarning,
                stacklevel=1,  # the same place for all callers, so that a warning is shown once
            )


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return a few names and the number of the others, in one line.

    >>> listed(["cat", "dog", "car", "tree", "cake"])
    'cat, dog, car and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def fill(templates: Iterable[str], word: str) -> list[str]:
    """Return each template with `word` in place of its braces, and with single spaces."""
    return [re.sub(r"\s+", " ", t.replace("{}", word)).strip() for t in templates]


def normalise_name(name: str) -> str:
    """Normalise a name, so that its spellings compare equal: case, width and spacing are ignored."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def read_as(anchor: str | None) -> str:
    """Return in words what is read in the place of a concept.

    >>> read_as("art"), read_as("")
    ("'art'", 'nothing (the empty prompt)')
    """
    return f"'{anchor}'" if anchor else NOTHING


def with_anchor(concept: Concept, anchor: str) -> Concept:
    """Return the concept, with `anchor` if it has none."""
    return concept if concept.anchor is not None else replace(concept, anchor=anchor)


def retain_prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every template filled with every name, without duplicates."""
    return list(dict.fromkeys(p for name in names for p in fill(templates, name)))
