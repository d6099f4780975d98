"""Distractors: what competes for the target's prompts. As unlike each other as possible, of the target's own level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.concept import same
from excise.errors import ConceptError
from excise.families.base import Family
from excise.selection import farthest

TOO_CLOSE = 0.9  # cosine to the target in text space
# Where neither the caller nor a vocabulary names candidates: everyday things of the target's level.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "object": (
        "bicycle", "teapot", "violin", "lighthouse", "pineapple", "umbrella", "typewriter", "cactus", "sailboat",
        "armchair", "waterfall", "tractor", "seashell", "lantern", "windmill", "backpack", "chess board", "mushroom",
        "hot air balloon", "clock tower", "sunflower", "steam train", "penguin", "telescope",
    ),
    "style": (
        "pencil sketch", "stained glass", "pixel art", "oil painting", "ukiyo-e print", "charcoal drawing", "mosaic",
        "blueprint", "pop art", "cross stitch", "low poly render", "woodcut", "graffiti", "black and white photograph",
    ),
    "person": (
        "a young woman", "an old man", "a firefighter", "a chef", "a ballet dancer", "an astronaut", "a farmer",
        "a nurse", "a guitarist", "a schoolboy", "a judge in a robe", "a mountaineer",
    ),
    "explicit": (
        "a fully clothed person", "a business suit", "a winter coat", "a landscape", "a bowl of fruit",
        "a city street", "a library", "a sleeping dog",
    ),
    "instance": (
        "a cartoon robot", "a fox in a raincoat", "a clay dinosaur", "a wooden puppet", "a knight in armour",
        "a space pirate", "a talking teapot", "a paper dragon", "a snow owl", "a tin soldier", "a mermaid",
    ),
}  # fmt: skip


def choose(
    family: Family,
    words: Sequence[str],
    candidates: Sequence[str],
    count: int,
    *,
    excluded: Sequence[str] = (),
    near: bool = False,
) -> list[str]:
    """Distractors for a target, from candidates.

    Args:
        words: the target's name and synonyms. excluded: names to keep and other targets; never chosen.
        near: take the nearest ones instead of the most diverse (for comparison).

    Raises:
        ConceptError: fewer than `count` candidates remain.
    """
    gone = {same(w) for w in (*words, *excluded)}
    left = [c for c in dict.fromkeys(candidates) if same(c) not in gone]
    states = pooled(family, [words[0], *left])
    cosine = torch.cosine_similarity(states[:1], states[1:])
    rows = [i for i, c in enumerate(cosine.tolist()) if c <= TOO_CLOSE]
    if len(rows) < count:
        raise ConceptError(
            f"{len(rows)} distractors for '{words[0]}' are left of {len(candidates)} candidates (targets, names to "
            f"keep and near-synonyms taken out), {count} are needed; name more with --set distractors=a,b,c or lower "
            "--set count."
        )
    if near:
        return [left[i] for i in sorted(rows, key=lambda i: -float(cosine[i]))[:count]]
    points = torch.nn.functional.normalize(states[1:][rows], dim=-1)
    first = min(range(len(rows)), key=lambda i: float(cosine[rows[i]]))
    return [left[rows[i]] for i in farthest(points, count, first)]


def pooled(family: Family, texts: Sequence[str]) -> Tensor:
    """(n, d) one state a text: the end token's (the last token's where there is none), in double precision."""
    found = family.encode(list(texts))
    return found.states[range(len(texts)), found.end].double().cpu()
