"""Verification: are the concepts gone and the rest retained? Pictures of unseen prompts, without and with an edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from excise.concepts.concept import Concept
from excise.concepts.vocabulary import Vocabulary
from excise.edits.edit import Edit, applied
from excise.families.base import Family, Progress
from excise.families.drawing import Images, draw
from excise.judges.base import OpenJudge
from excise.metrics.rates import Estimate, rate
from excise.support.digests import seed_of
from excise.support.selection import evenly
from excise.training.pictures import Sampling

MOST_OTHERS = 60  # names that are looked for besides the concepts


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
        others: number of other names that were looked for.
    """

    judge: str
    verdicts: list[Verdict]
    retained: Estimate | None
    others: int


@dataclass(frozen=True)
class Checks:
    """What a verification looks for, and how.

    Attributes:
        concepts: the erased concepts.
        vocabulary: gives the prompts, and the siblings of the concepts, which join the names to retain.
        preserve: names to retain.
        pictures: number of pictures of each concept; other names have one.
        scorer: the judge.
        sampling: how pictures are drawn.
    """

    concepts: Sequence[Concept]
    vocabulary: Vocabulary
    preserve: Sequence[str]
    pictures: int
    scorer: OpenJudge
    sampling: Sampling

    @property
    def others(self) -> list[str]:
        """The names to retain, at most `MOST_OTHERS`."""
        return evenly(self.vocabulary.others(self.concepts, self.preserve), MOST_OTHERS)

    def rows(self) -> list[tuple[str, str, int]]:
        """Return (name, prompt, index of the picture): `pictures` rows of each concept, then one of each other name."""
        rows = []
        for concept in self.concepts:
            prompts = self.vocabulary.checks(concept)
            rows += [(concept.name, prompts[i % len(prompts)], i) for i in range(self.pictures)]
        # Other names are asked for in the prompts of the first concept's kind.
        kind = self.concepts[0].kind if self.concepts else "object"
        return rows + [(name, self.vocabulary.checks(Concept(name, kind))[0], 0) for name in self.others]


def verify(
    family: Family,
    edits: Sequence[Edit],
    checks: Checks,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Draw and judge pictures of the concepts and the names to retain, without and with the edits.

    Args:
        cache: folder of drawn images, so that the untouched model draws nothing twice.
        progress: receives pictures done and pictures in all.
    """
    rows = checks.rows()
    names = [name for name, _, _ in rows]
    # The seed depends on the prompt and index alone, so a cached picture stays valid when other names join.
    requests = [(prompt, seed_of("verify", prompt, i)) for _, prompt, i in rows]

    def judged(use: Sequence[Edit], report: Callable[[int, int], None]) -> tuple[Images, list[bool]]:
        sampling = checks.sampling
        with applied(family, use):
            images = draw(
                family,
                requests,
                steps=sampling.steps,
                guidance=sampling.guidance,
                batch=sampling.batch,
                cache=cache,
                progress=report,
            )
        return images, checks.scorer.sees(images, names)

    def reporter(done: int) -> Callable[[int, int], None]:
        return lambda drawn, total: progress(done + drawn, 2 * total) if progress else None

    before, shown_before = judged((), reporter(0))
    after, shown_after = judged(edits, reporter(len(requests)))
    verdicts = []
    for i, concept in enumerate(checks.concepts):
        first = i * checks.pictures
        shown = [r for r in range(first, first + checks.pictures) if shown_before[r]]
        erased = rate([not shown_after[r] for r in shown]) if shown else None
        example = shown[0] if shown else first
        verdicts.append(Verdict(concept, erased, before[example], after[example]))
    others = [r for r in range(len(checks.concepts) * checks.pictures, len(rows)) if shown_before[r]]
    retained = rate([shown_after[r] for r in others]) if others else None
    return Verification(checks.scorer.name, verdicts, retained, len(checks.others))
