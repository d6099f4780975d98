"""What deleting concepts one after another did: what is gone after each step, what came back, and when the rest broke.

The table of earlier concepts by step is that of UnlearnCanvas (arXiv 2402.11846); that methods break down after three
to five deletions is what arXiv 2512.02657 finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from excise.concepts.concept import listed
from excise.evaluation.scoring import Shown
from excise.metrics.correction import relative_ua
from excise.metrics.rates import Estimate, difference, rate
from excise.protocols.concept import ATTRIBUTE, RETAINED
from excise.support.counts import counted

SCHEMA = 2  # 2: with what is gone of a concept after its own deletion
GONE = 0.5  # share of a concept's pictures that has to be clean, by the whole interval; as the gate of policies
STAYED = 0.1  # rise of a concept's share up to which, by the whole interval, it counts as not come back
Figure = dict[str, float]
"""An estimate as JSON holds it: value, low, high (95 %) and n."""


class Step(BaseModel):
    """The model after one deletion.

    Attributes:
        step: its number, from 1. concept: the one that was deleted in it.
        edit: the edit's file, in the run folder.
        shows: by concept deleted so far, the share of pictures of its prompts that show it.
        gone: of the pictures in which the untouched model shows a concept deleted so far, the share that no longer
            does; None where there are none.
        own: the same of the concept that was deleted in this step alone.
        retained: of the pictures of other names that are right by the untouched model, the share that still is; None
            where there are none, or where the judge knows none of the names.
        right: the share of pictures of other names that are right.
        drift: mean pixel difference of these pictures to the untouched model's, 0 to 1.
        seconds: of erasing, drawing and judging.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    concept: str
    edit: str
    shows: dict[str, Figure]
    gone: Figure | None
    own: Figure | None
    retained: Figure | None
    right: Figure | None
    drift: Figure
    seconds: dict[str, float]


class Collapse(BaseModel):
    """When the other names stopped being drawn.

    Attributes:
        share: the share of what the untouched model draws rightly that has to be left.
        proven: the first step after which less is left, by the whole 95 % interval; None if there is none.
        possible: the first step after which the interval reaches below the share.
    """

    model_config = ConfigDict(frozen=True)

    share: float
    proven: int | None
    possible: int | None


class SequenceResult(BaseModel):
    """The result of deleting concepts one after another.

    Attributes:
        concepts: in the order of their deletion.
        stacked: whether each step is an edit on top of the earlier ones; else each is one edit of all concepts so far.
        protocol, hash, protocol_summary: of the pictures, those of all concepts and of the other names.
        untouched: by concept, the share of pictures in which the untouched model shows it.
        right: the share of pictures of other names that are right by the untouched model.
        rebound: by concept, its share after the last step less that right after its own deletion: above zero it came
            back. The interval takes the two as independent.
        collapse: when the other names stopped being drawn; None where the judge sees none of them.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    model: str
    method: str
    concepts: list[str]
    stacked: bool
    protocol: str
    hash: str
    protocol_summary: dict[str, Any]
    untouched: dict[str, Figure]
    right: Figure | None
    steps: list[Step]
    rebound: dict[str, Figure]
    collapse: Collapse | None


def shares(shown: list[Shown], names: list[str]) -> dict[str, Estimate]:
    """Return, by concept, the share of pictures of its prompts that show it."""
    return {
        name: rate([s.right(ATTRIBUTE) for s in shown if s.group == "target" and s.asked.get(ATTRIBUTE) == name])
        for name in names
    }


def right_share(shown: list[Shown]) -> Estimate | None:
    """Return the share of pictures of other names that are right; None where none is judged."""
    hits = [s.right(ATTRIBUTE) for s in shown if s.group in RETAINED and s.asked]
    return rate(hits) if hits else None


def against(before: list[Shown], after: list[Shown]) -> tuple[Estimate | None, Estimate | None]:
    """Return `gone` and `retained` of a step.

    Args:
        before: pictures of the untouched model. after: the same prompts and seeds after the step.
    """
    pairs = [(b, b.right(ATTRIBUTE), a.right(ATTRIBUTE)) for b, a in zip(before, after, strict=True) if b.asked]
    targets = [(was, now) for b, was, now in pairs if b.group == "target"]
    gone = None
    if any(was for was, _ in targets):
        gone = relative_ua([was for was, _ in targets], [now for _, now in targets])
    still = [now for b, was, now in pairs if b.group in RETAINED and was]
    return gone, rate(still) if still else None


def rebound(steps: list[Step]) -> dict[str, Estimate]:
    """Return, by concept, its share after the last step less that right after its own deletion."""
    last = steps[-1].shows
    return {s.concept: difference(estimate(last[s.concept]), estimate(s.shows[s.concept])) for s in steps}


def collapse(retained: Mapping[int, Estimate], share: float) -> Collapse:
    """Return when the other names stopped being drawn.

    Args:
        retained: by step, the share of what was right that still is.
        share: that has to be left.
    """
    proven = [step for step, kept in retained.items() if kept.high < share]
    possible = [step for step, kept in retained.items() if kept.low < share]
    return Collapse(share=share, proven=min(proven, default=None), possible=min(possible, default=None))


def estimate(figure: Mapping[str, float]) -> Estimate:
    """Return an estimate that JSON holds."""
    return Estimate(figure["value"], figure["low"], figure["high"], round(figure["n"]))


def verdicts(result: SequenceResult) -> list[tuple[str, bool | None]]:
    """Return the result in sentences, each with whether it is good; None where it is open."""
    return [*_of_gone(result), _of_retention(result), *_of_rebound(result), *_of_unknown(result)]


def is_gone(step: Step) -> bool | None:
    """Return whether at least half of a concept's pictures are clean after its own deletion; None where it is open."""
    if step.own is None:
        return None
    return True if step.own["low"] >= GONE else False if step.own["high"] < GONE else None


def _of_gone(result: SequenceResult) -> list[tuple[str, bool | None]]:
    """What is gone after each own deletion, in a sentence for each answer that there is."""
    answers = {
        True: ("Gone from at least half of its pictures after its own deletion", "at least {low:.0f} %"),
        False: ("Not gone, less than half of its pictures are clean after its own deletion", "at most {high:.0f} %"),
        None: (
            "Open whether at least half of its pictures are clean after its own deletion",
            "{low:.0f} to {high:.0f} %",
        ),
    }
    sentences = []
    for good, (head, span) in answers.items():
        of = [(s.concept, s.own) for s in result.steps if s.own is not None and is_gone(s) is good]
        texts = [
            f"{name} ({100 * f['value']:.0f} % of {counted(round(f['n']), 'picture')}, "
            f"{span.format(low=100 * f['low'], high=100 * f['high'])})"
            for name, f in of
        ]
        if texts:
            sentences.append((f"{head}: {', '.join(texts)}.", good))
    return sentences


def _of_retention(result: SequenceResult) -> tuple[str, bool | None]:
    """When the other names stopped being drawn, in a sentence."""
    when = result.collapse
    if when is None:
        return (
            "Whether other names are kept is open: the judge sees none of them by the untouched model.",
            None,
        )
    share, count = f"{100 * when.share:g} %", counted(len(result.steps), "deletion")
    if when.proven is not None:
        kept = result.steps[when.proven - 1].retained or {}
        return (
            f"Collapse at deletion {when.proven} ({result.concepts[when.proven - 1]}): of what the untouched model "
            f"draws rightly of other names, {100 * kept['value']:.0f} % is left (at most {100 * kept['high']:.0f} %, "
            f"less than {share}).",
            False,
        )
    if when.possible is not None:
        return (
            f"No collapse is proven in {count}, but from deletion {when.possible} "
            f"({result.concepts[when.possible - 1]}) on fewer than {share} of other names may be left.",
            None,
        )
    return f"No collapse: at least {share} of other names are left after each of {count}.", True


def _of_rebound(result: SequenceResult) -> list[tuple[str, bool | None]]:
    """What came back, in sentences; after the last deletion nothing is drawn again, so its concept has none."""
    sentences: list[tuple[str, bool | None]] = []
    stayed, unseen, open_ = list[str](), list[str](), list[str]()
    for step in result.steps[:-1]:
        name, f = step.concept, result.rebound[step.concept]
        if f["low"] > 0 or (f["value"] > 0 and is_gone(step)):
            text = f"{name} came back in part: {100 * f['value']:+.0f} points since its own deletion"
            span = f" ({100 * f['low']:+.0f} to {100 * f['high']:+.0f})."
            sentences.append((text + span, False if f["low"] > 0 else None))
        elif is_gone(step):
            (stayed if f["high"] <= STAYED else unseen).append(f"{name} (up to {100 * f['high']:+.0f} points)")
        elif step.own is not None:
            open_.append(name)
    if stayed:
        everything = not (sentences or unseen or open_)
        head = "Nothing came back" if everything else "Did not come back"
        sentences.append((f"{head}: {', '.join(stayed)}.", True))
    if unseen:
        sentences.append((f"Not seen to come back: {', '.join(unseen)}.", None))
    if open_:
        was = "it is" if len(open_) == 1 else "they are"
        sentences.append((f"Whether {listed(open_)} came back is open: {was} not known to have been gone.", None))
    return sentences


def _of_unknown(result: SequenceResult) -> list[tuple[str, bool | None]]:
    """What the untouched model does not draw."""
    return [
        (f"{name}: not verifiable, the untouched model shows it in none of {round(f['n'])} pictures.", None)
        for name, f in result.untouched.items()
        if not f["value"]
    ]
