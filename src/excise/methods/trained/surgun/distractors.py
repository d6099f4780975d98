"""Choose distractors: names of the target's level, as unlike each other as possible, that compete for its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from excise.concepts.concept import normalise_name
from excise.errors import ConceptError
from excise.families.base import Family
from excise.families.text_space import pooled
from excise.support.selection import farthest

TOO_CLOSE = 0.9  # cosine to the target in text space


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
    excluded_names = {normalise_name(w) for w in (*words, *excluded)}
    names = [c for c in dict.fromkeys(candidates) if normalise_name(c) not in excluded_names]
    states = pooled(family, [words[0], *names])
    cosine = torch.cosine_similarity(states[:1], states[1:])
    if len(names) > 1 and float(cosine.median()) > TOO_CLOSE:
        # Behind an instruction, or in a turn of a chat, prompts have most of their state in common: all but the words.
        states = states - pooled(family, [""])
        cosine = torch.cosine_similarity(states[:1], states[1:])
    rows = [i for i, c in enumerate(cosine.tolist()) if c <= TOO_CLOSE]
    if len(rows) < count:
        raise ConceptError(
            f"{len(rows)} distractors for '{words[0]}' are left of {len(candidates)} candidates (targets, names to "
            f"keep and near-synonyms taken out), {count} are needed; name more with --set distractors=a,b,c or lower "
            "--set count."
        )
    if near:
        return [names[i] for i in sorted(rows, key=lambda i: -float(cosine[i]))[:count]]
    points = torch.nn.functional.normalize(states[1:][rows], dim=-1)
    first = min(range(len(rows)), key=lambda i: float(cosine[rows[i]]))
    return [names[rows[i]] for i in farthest(points, count, first)]
