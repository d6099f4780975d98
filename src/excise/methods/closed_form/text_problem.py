"""From a request to token states: what a closed-form method needs to know about its targets and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from excise.concepts.concept import TEMPLATES, Concept
from excise.families.base import Family
from excise.families.text_cache import encode_known
from excise.families.text_states import TextStates
from excise.methods.closed_form.config import MethodConfig


@dataclass(frozen=True)
class TextProblem:
    """What a closed-form method is given: token states in float64, one state a row.

    Attributes:
        targets: (T, d) tokens to erase. anchors: (T, d) what each becomes, row by row.
        retain: (M, d) tokens to keep.
        start: (d,) the start-token state, the same in every prompt.
        null: (P, d) the states of the empty prompt after the start token.
        owner: (T,) which concept each target row speaks of, from 0.
        subjects: (m, d) each concept's last subject token, the mean over its prompts.
        prompts: how many prompts the target rows come from; None: one a row.
        later: the same request by the tokens of a method's later steps, where it has such (`MethodConfig.later`).
    """

    targets: Tensor
    anchors: Tensor
    retain: Tensor
    start: Tensor
    null: Tensor
    owner: Tensor
    subjects: Tensor
    prompts: int | None = None
    later: TextProblem | None = None


def weight_of_kept(problem: TextProblem, scale: float, balanced: bool) -> float:
    """The weight of each state that is kept: `scale`, or of all of them beside all targets (see `BALANCED`)."""
    return scale * len(problem.targets) / max(1, len(problem.retain)) if balanced else scale


@dataclass(frozen=True)
class Encoded:
    """A request in states, each distinct prompt once.

    `texts` are the prompts themselves. `rows` tells where each stands: targets, their anchors in the same order (often
    the same for many), what is kept, the empty prompt last. `owner` tells of each target which concept it speaks of,
    from 0.
    """

    texts: Sequence[str]
    states: TextStates
    rows: Sequence[int]
    owner: Tensor

    @property
    def pairs(self) -> int:
        """Targets, and anchors."""
        return len(self.owner)


def encode(
    family: Family,
    concepts: Sequence[Concept],
    retain: Sequence[str],
    templates: Mapping[str, Sequence[str]] = TEMPLATES,
    known: Path | None = None,
) -> Encoded:
    """Encode targets, anchors and retained prompts, all in one batch.

    Args:
        concepts: with an anchor each; "" stands for nothing.
        retain: prompts to keep as they are.
        templates: by concept kind, the prompts ("{}" is the target) in which a target is looked at.
        known: folder of text states; what it holds is not encoded again.

    Raises:
        ConceptError: a prompt does not fit the text encoder.
    """
    pairs = [
        (template.replace("{}", word), word, _anchored(template, concept.anchor or ""), which)
        for which, concept in enumerate(concepts)
        for word in concept.words
        for template in templates[concept.kind]
    ]
    texts = [target for target, _, _, _ in pairs] + [anchor for _, _, (anchor, _), _ in pairs] + [*retain, ""]
    subjects: list[str | int | None] = [word for _, word, _, _ in pairs]
    subjects += [at for _, _, (_, at), _ in pairs] + [None] * (len(retain) + 1)
    asked = list(zip(texts, subjects, strict=True))
    row = {pair: i for i, pair in enumerate(dict.fromkeys(asked))}  # anchors are often the same for all targets
    distinct, their = [text for text, _ in row], [subject for _, subject in row]
    states = encode_known(family, distinct, their, known) if known else family.encode(distinct, their)
    return Encoded(distinct, states, [row[pair] for pair in asked], torch.tensor([which for *_, which in pairs]))


def token_problem(encoded: Encoded, config: MethodConfig) -> TextProblem:
    """What keys and values read, one token a row.

    A target and its anchor are the same template filled with either name; their token blocks start at the subject (for
    an empty anchor, at the token before what follows) and are cut to equal length, so that they match row by row.
    """
    first = _problem(encoded, config.tokens, config.retain_tokens)
    return replace(first, later=_problem(encoded, config.later, config.retain_tokens)) if config.later else first


def _problem(encoded: Encoded, tokens: str, retain_tokens: str) -> TextProblem:
    states, rows, n = encoded.states, encoded.rows, encoded.pairs
    pairs = [_matched(states, rows[i], rows[n + i], tokens) for i in range(n)]
    lengths = torch.tensor([len(target) for target, _ in pairs])
    kept = [states.span(i, retain_tokens) for i in rows[2 * n : -1]]
    null = states.span(rows[-1], "all").double()
    return TextProblem(
        targets=torch.cat([target for target, _ in pairs]).double(),
        anchors=torch.cat([anchor for _, anchor in pairs]).double(),
        retain=torch.cat(kept).double() if kept else null[:0],
        start=null[0],
        null=null[1:],
        owner=encoded.owner.repeat_interleave(lengths).to(null.device),
        subjects=_means(torch.cat([states.span(i, "last") for i in rows[:n]]).double(), encoded.owner),
        prompts=n,
    )


def _matched(states: TextStates, target: int, anchor: int, tokens: str) -> tuple[Tensor, Tensor]:
    """The token blocks of a target's prompt and its anchor's, of equal length."""
    if tokens == "context":
        before = int(states.first[target])  # both prompts begin with the same words
        one, two = states.context(target, before), states.context(anchor, before)
    else:
        one, two = states.span(target, tokens), states.span(anchor, tokens)
    length = min(len(one), len(two))
    return one[:length], two[:length]


def _means(rows: Tensor, owner: Tensor) -> Tensor:
    """(m, d): the mean of each owner's rows (n, d)."""
    member = torch.nn.functional.one_hot(owner).to(rows)
    return (member / member.sum(dim=0)).mT @ rows


def pooled_problem(encoded: Encoded) -> TextProblem | None:
    """What the map of the pooled prompt reads, one prompt a row; None where the family has none.

    The empty prompt takes the place of the start token: it stays as it is.
    """
    if encoded.states.pooled is None:
        return None
    rows, n = encoded.states.pooled[encoded.rows].double(), encoded.pairs
    return TextProblem(
        targets=rows[:n],
        anchors=rows[n : 2 * n],
        retain=rows[2 * n : -1],
        start=rows[-1],
        null=rows[:0],
        owner=encoded.owner.to(rows.device),
        subjects=_means(rows[:n], encoded.owner),
    )


def _anchored(template: str, anchor: str) -> tuple[str, str | int]:
    """The template filled with the anchor, and what to look for in it: the anchor, or where it would have stood."""
    if anchor:
        return template.replace("{}", anchor), anchor
    before, after = (part.strip() for part in template.split("{}"))
    return f"{before} {after}".strip(), len(before)
