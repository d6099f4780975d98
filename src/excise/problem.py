"""From a request to token states: what a closed-form method needs to know about its targets and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from excise.concept import TEMPLATES, Concept, fill
from excise.families.base import Family, TextStates
from excise.methods.base import MethodConfig, TextProblem


@dataclass(frozen=True)
class Encoded:
    """A request in states: `pairs` targets, their anchors in the same order, what is kept, the empty prompt last."""

    states: TextStates
    pairs: int


def encode(
    family: Family,
    concepts: Sequence[Concept],
    retain: Sequence[str],
    templates: Mapping[str, Sequence[str]] = TEMPLATES,
) -> Encoded:
    """Encode targets, anchors and retained prompts, all in one batch.

    Args:
        concepts: with an anchor each; "" stands for nothing.
        retain: prompts to keep as they are.
        templates: by concept kind, the prompts ("{}" is the target) in which a target is looked at.

    Raises:
        ConceptError: a prompt does not fit the text encoder.
    """
    pairs = [
        (template.replace("{}", word), word, _anchored(template, concept.anchor or ""))
        for concept in concepts
        for word in concept.words
        for template in templates[concept.kind]
    ]
    texts = [target for target, _, _ in pairs] + [anchor for _, _, (anchor, _) in pairs] + [*retain, ""]
    subjects: list[str | int | None] = [word for _, word, _ in pairs]
    subjects += [at for _, _, (_, at) in pairs] + [None] * (len(retain) + 1)
    return Encoded(family.encode(texts, subjects), len(pairs))


def token_problem(encoded: Encoded, config: MethodConfig) -> TextProblem:
    """What keys and values read, one token a row.

    A target and its anchor are the same template filled with either name; their token blocks start at the subject (for
    an empty anchor, at the token before what follows) and are cut to equal length, so that they match row by row.
    """
    states, n = encoded.states, encoded.pairs
    targets, anchors = [], []
    for i in range(n):
        target, anchor = states.span(i, config.tokens), states.span(n + i, config.tokens)
        length = min(len(target), len(anchor))
        targets.append(target[:length])
        anchors.append(anchor[:length])
    last = len(states.states) - 1
    kept = [states.span(i, config.retain_tokens) for i in range(2 * n, last)]
    null = states.span(last, "all").double()
    return TextProblem(
        targets=torch.cat(targets).double(),
        anchors=torch.cat(anchors).double(),
        retain=torch.cat(kept).double() if kept else null[:0],
        start=null[0],
        null=null[1:],
    )


def pooled_problem(encoded: Encoded) -> TextProblem | None:
    """What the map of the pooled prompt reads, one prompt a row; None where the family has none.

    The empty prompt takes the place of the start token: it stays as it is.
    """
    if encoded.states.pooled is None:
        return None
    rows, n = encoded.states.pooled.double(), encoded.pairs
    return TextProblem(
        targets=rows[:n], anchors=rows[n : 2 * n], retain=rows[2 * n : -1], start=rows[-1], null=rows[:0]
    )


def _anchored(template: str, anchor: str) -> tuple[str, str | int]:
    """The template filled with the anchor, and what to look for in it: the anchor, or where it would have stood."""
    if anchor:
        return template.replace("{}", anchor), anchor
    before, after = (part.strip() for part in template.split("{}"))
    return f"{before} {after}".strip(), len(before)


def retain_prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with every name, duplicates dropped."""
    return list(dict.fromkeys(p for name in names for p in fill(templates, name)))
