"""From a request to token states: what a closed-form method needs to know about its targets and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from excise.concept import TEMPLATES, Concept, fill
from excise.families.base import Family
from excise.methods.base import MethodConfig, TextProblem


def text_problem(
    family: Family,
    concepts: Sequence[Concept],
    retain: Sequence[str],
    config: MethodConfig,
    templates: Mapping[str, Sequence[str]] = TEMPLATES,
) -> TextProblem:
    """Encode targets, anchors and retained prompts, all in one batch, and pick their tokens.

    A target and its anchor are the same template filled with either name; their token blocks start at the subject (for
    an empty anchor, at the token before what follows) and are cut to equal length, so that they match row by row.

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
    states = family.encode(texts, subjects)
    targets, anchors = [], []
    for i in range(len(pairs)):
        target, anchor = states.span(i, config.tokens), states.span(len(pairs) + i, config.tokens)
        length = min(len(target), len(anchor))
        targets.append(target[:length])
        anchors.append(anchor[:length])
    kept = [states.span(2 * len(pairs) + i, config.retain_tokens) for i in range(len(retain))]
    null = states.span(len(texts) - 1, "all").double()
    return TextProblem(
        targets=torch.cat(targets).double(),
        anchors=torch.cat(anchors).double(),
        retain=torch.cat(kept).double() if kept else null[:0],
        start=null[0],
        null=null[1:],
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
