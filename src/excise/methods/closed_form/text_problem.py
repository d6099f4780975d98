"""Token states of a request: targets, anchors and retained prompts, as closed forms take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from excise.concepts.concept import TEMPLATES, Concept
from excise.families.base import Family
from excise.families.text_cache import encode_known
from excise.families.text_states import Pads, TextStates, Until
from excise.methods.closed_form.config import MethodConfig
from excise.support.display import Card, Showing, described
from excise.support.settings import Settings


@dataclass(frozen=True, repr=False)
class TextProblem(Showing):
    """The input of a closed form: token states in float64, one state a row.

    Attributes:
        targets: (T, d) tokens to erase.
        anchors: (T, d) the state that replaces each target, row by row.
        retain: (M, d) tokens to retain.
        start: (d,) the start token, which has the same state in every prompt.
        null: (P, d) the empty prompt after the start token.
        owner: (T,) index of the concept of each target row.
        subjects: (m, d) last subject token of each concept, the mean over its prompts.
        prompts: number of prompts that the target rows come from; None means one a row.
        later: the same request with the tokens of a method's later steps (`MethodConfig.later`), if it has any.
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

    def card(self) -> Card:
        """What the problem shows of itself: the shapes of its states."""
        return described("Text problem of a closed form", self)


def retain_weight(problem: TextProblem, scale: float, balanced: bool) -> float:
    """The weight of each retained state: `scale`, or, if balanced, `scale` times targets per retained state."""
    return scale * len(problem.targets) / max(1, len(problem.retain)) if balanced else scale


@dataclass(frozen=True)
class Encoded:
    """The encoded prompts of a request, each distinct prompt once.

    Attributes:
        texts: the distinct prompts.
        subjects: of these prompts, as `Family.encode` takes them.
        states: their text states.
        rows: index into `texts` of every prompt of the request: targets, their anchors in the same order, retained
            prompts, and the empty prompt last.
        owner: (targets,) index of the concept of each target.
    """

    texts: Sequence[str]
    subjects: Sequence[str | int | None]
    states: TextStates
    rows: Sequence[int]
    owner: Tensor

    @property
    def pairs(self) -> int:
        """Number of pairs of a target and its anchor."""
        return len(self.owner)


def encode(
    family: Family,
    concepts: Sequence[Concept],
    retain: Sequence[str],
    templates: Mapping[str, Sequence[str]] = TEMPLATES,
    cache: Path | None = None,
    reach: tuple[Until, Until] = ("all", "all"),
) -> Encoded:
    """Encode targets, anchors and retained prompts, what they have in common once.

    Args:
        concepts: each with an anchor; "" stands for nothing.
        retain: prompts to retain.
        templates: by concept kind, the prompts that show a target, "{}" in its place.
        cache: folder of text states; what is in it is not encoded again.
        reach: how far targets with their anchors, and retained prompts, are encoded (see `reach_of`); the empty prompt
            is encoded whole.

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
    untils: list[Until] = [reach[0]] * (2 * len(pairs)) + [reach[1]] * len(retain) + ["all"]
    requests = list(zip(texts, subjects, untils, strict=True))
    row = {request: i for i, request in enumerate(dict.fromkeys(requests))}  # many targets share an anchor
    prompts, subject_of = [text for text, _, _ in row], [subject for _, subject, _ in row]
    until = [how for _, _, how in row]
    known = (family, prompts, subject_of)
    states = encode_known(*known, cache, until) if cache else family.encode(prompts, subject_of, until)
    rows = [row[request] for request in requests]
    return Encoded(prompts, subject_of, states, rows, torch.tensor([which for *_, which in pairs]))


def reach_of(config: Settings, pooled: bool) -> tuple[Until, Until]:
    """How far a method's settings need targets with their anchors, and retained prompts, encoded.

    Args:
        pooled: whether the family has projections that read the pooled prompt.
    """
    if not isinstance(config, MethodConfig):
        return "last", "last"  # of a method that edits the text encoder, which reads positions alone
    before_end: Until = "end" if pooled and config.pooled else "last"
    whole: Until = config.pads
    inside = ("last", "subject", None)
    targets = all(tokens in inside for tokens in (config.tokens, config.later))
    return before_end if targets else whole, before_end if config.retain_tokens in inside else whole


def token_problem(encoded: Encoded, config: MethodConfig) -> TextProblem:
    """The problem of keys and values, which read one token at a time.

    A target and its anchor are the same template filled with either name. Their token blocks start at the subject (for
    an empty anchor, at the token before the rest of the template) and are cut to equal length, so they match row by
    row.
    """
    first = _problem(encoded, config, config.tokens)
    return replace(first, later=_problem(encoded, config, config.later)) if config.later else first


def _problem(encoded: Encoded, config: MethodConfig, tokens: str) -> TextProblem:
    states, rows, n, pads = encoded.states, encoded.rows, encoded.pairs, config.pads
    targets, anchors, lengths = _matched(states, rows[:n], rows[n : 2 * n], tokens, pads)
    retained = rows[2 * n : -1]
    kept = states.chosen(retained, config.retain_tokens, pads) if retained else None
    null = states.span(rows[-1], "all", pads).double()
    return TextProblem(
        targets=targets.double(),
        anchors=anchors.double(),
        retain=null[:0] if kept is None else states.gather(retained, kept).double(),
        start=null[0],
        null=null[1:],
        owner=encoded.owner.repeat_interleave(lengths).to(null.device),
        subjects=_means(states.gather(rows[:n], _last(states, rows[:n])).double(), encoded.owner),
        prompts=n,
    )


def _matched(
    states: TextStates, targets: Sequence[int], anchors: Sequence[int], tokens: str, pads: Pads
) -> tuple[Tensor, Tensor, Tensor]:
    """The token blocks of targets' prompts and of their anchors', cut to equal lengths, and those lengths.

    Where several text encoders' tokens stand one behind the other, the blocks of each are cut and matched.
    """
    if tokens == "context":  # both prompts begin with the same words
        one, two = states.around(targets, targets, pads), states.around(anchors, targets, pads)
    else:
        one, two = states.chosen(targets, tokens, pads), states.chosen(anchors, tokens, pads)
    whole = torch.zeros(len(targets), dtype=torch.long)
    matched_one, matched_two = torch.zeros_like(one), torch.zeros_like(two)
    for columns in states.columns:
        lengths = torch.minimum((one & columns).sum(1), (two & columns).sum(1))
        matched_one |= _begin(one & columns, lengths)
        matched_two |= _begin(two & columns, lengths)
        whole += lengths
    return states.gather(targets, matched_one), states.gather(anchors, matched_two), whole


def _begin(mask: Tensor, lengths: Tensor) -> Tensor:
    """The first `lengths` (b,) of the tokens that a mask (b, L) selects."""
    return mask & (mask.cumsum(1) <= lengths[:, None])


def _last(states: TextStates, rows: Sequence[int]) -> Tensor:
    """(b, L): the subject's last token of some prompts, as the first text encoder has it."""
    return torch.arange(states.at.shape[1]) == states.last[rows, None]


def _means(rows: Tensor, owner: Tensor) -> Tensor:
    """(m, d): the mean of each owner's rows (n, d)."""
    member = torch.nn.functional.one_hot(owner).to(rows)
    return (member / member.sum(dim=0)).mT @ rows


def pooled_problem(encoded: Encoded, weight: float) -> TextProblem | None:
    """The problem of the map that reads the pooled prompt, one prompt a row; None where the family has no such map.

    The empty prompt takes the place of the start token, which methods leave unchanged.

    Args:
        encoded: the request.
        weight: of each target with its anchor: a closed form minimises squares, so both are scaled by its root.
    """
    if encoded.states.pooled is None:
        return None
    rows, n = encoded.states.pooled[encoded.rows].double(), encoded.pairs
    scale = weight**0.5
    return TextProblem(
        targets=scale * rows[:n],
        anchors=scale * rows[n : 2 * n],
        retain=rows[2 * n : -1],
        start=rows[-1],
        null=rows[:0],
        owner=encoded.owner.to(rows.device),
        subjects=_means(scale * rows[:n], encoded.owner),
    )


def _anchored(template: str, anchor: str) -> tuple[str, str | int]:
    """The template filled with the anchor, and its subject: the anchor, or the place of an empty one in characters."""
    if anchor:
        return template.replace("{}", anchor), anchor
    before, after = (part.strip() for part in template.split("{}"))
    return f"{before} {after}".strip(), len(before)
