"""Verification of a policy: are the concepts gone and other names still drawn? Asked by the protocol `concept`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from excise.concepts.concept import Concept
from excise.edits.edit import Edit
from excise.evaluation.evaluate import evaluate
from excise.evaluation.proof import retained_estimate
from excise.families.base import Family, Progress
from excise.judges.base import OpenJudge
from excise.metrics.rates import Estimate
from excise.protocols.base import Protocol
from excise.protocols.concept import ATTRIBUTE, RETAINED


@dataclass(frozen=True)
class Verdict:
    """The verification of one concept.

    Attributes:
        erased: of the pictures in which the untouched model shows it, the share that no longer does; None where the
            untouched model never shows it, so that nothing can be said.
        before, after: one picture of it without and with the edit.
    """

    concept: Concept
    erased: Estimate | None
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Verification:
    """The verdicts on all concepts, and on the names to retain.

    Attributes:
        judge: name of the judge.
        retained: of the other names' pictures that were right before, the share that is still right; None where none
            was right.
        others: number of pictures of other names.
    """

    judge: str
    verdicts: list[Verdict]
    retained: Estimate | None
    others: int


def verify(
    family: Family,
    edits: Sequence[Edit],
    concepts: Sequence[Concept],
    plan: Protocol,
    judge: OpenJudge,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Draw and judge pictures of the concepts and of other names, with and without the edits.

    Args:
        plan: the protocol `concept` for the concepts.
        cache: folder of drawn images, so that the untouched model draws nothing twice.
        progress: receives pictures done and pictures in all.
    """
    steps = _Halves(progress)
    after = evaluate(
        family,
        [c.name for c in concepts],
        edits=edits,
        protocol=plan,
        untouched=True,
        judge=judge,
        cache=cache,
        progress=steps if progress else None,
    )
    assert after.before is not None
    old, new = after.before.result.shown, after.result.shown
    verdicts = []
    for concept, verdict in zip(concepts, after.result.verdicts, strict=True):
        rows = [i for i, s in enumerate(new) if s.group == "target" and s.asked[ATTRIBUTE] == concept.name]
        example = next((i for i in rows if old[i].right(ATTRIBUTE)), rows[0])
        erased = None
        if (clean := verdict.clean) is not None:
            erased = Estimate(clean["value"], clean["low"], clean["high"], round(clean["n"]))
        verdicts.append(Verdict(concept, erased, after.before.images[example], after.images[example]))
    others = sum(s.group in RETAINED for s in new)
    return Verification(judge.name, verdicts, retained_estimate(old, new, ATTRIBUTE), others)


class _Halves:
    """Progress of two rounds of pictures as one."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._before, self._last = progress, 0, 0.0

    def __call__(self, done: float, total: int) -> None:
        if done < self._last:  # the second round
            self._before = total
        self._last = done
        if self._progress:
            self._progress(self._before + done, 2 * total)
