"""Is each concept gone, and is the rest still there? Pictures of prompts no method saw, with and without an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from excise.concepts.concept import Concept
from excise.concepts.vocabulary import Vocabulary
from excise.edits.edit import Edit, applied
from excise.families.base import Family, Progress
from excise.families.drawing import Images, draw
from excise.metrics.rates import Estimate, rate
from excise.support.digests import seed_of
from excise.support.selection import evenly
from excise.training.pictures import Sampling
from excise.training.scorers import Scorer

MOST_KEPT = 60


@dataclass(frozen=True)
class Verdict:
    """What was seen of one concept.

    Attributes:
        erased: of the pictures in which the untouched model shows it, the share that no longer does; None where there
            are none, so that nothing can be said.
        before, after: one picture of it without and with the edit.
    """

    concept: Concept
    erased: Estimate | None
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Verification:
    """All verdicts, and what was seen of what is kept.

    Attributes:
        retained: of its pictures that were right before, the share still right; None where none was. kept: how many
            names were looked for.
    """

    judge: str
    verdicts: list[Verdict]
    retained: Estimate | None
    kept: int


def verify(
    family: Family,
    edits: Sequence[Edit],
    concepts: Sequence[Concept],
    words: Vocabulary,
    scorer: Scorer,
    sampling: Sampling,
    *,
    kept: Sequence[str] = (),
    pictures: int = 10,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Draw `pictures` of each concept, and one of each of up to sixty names that are kept, without and with the edits.

    Args:
        concepts: to look for. kept: names to look for as well; the vocabulary's siblings join them.
        cache: folder of drawn images, so that the untouched model draws nothing twice.
    """
    asked = [(c.name, prompt, i) for c in concepts for i, prompt in enumerate(_cycled(words.checks(c), pictures))]
    # What is kept is asked for in the words of its own kind's checks, as a concept of the first one's kind.
    kind = concepts[0].kind if concepts else "object"
    others = evenly(words.others(concepts, kept), MOST_KEPT)
    asked += [(name, words.checks(Concept(name, kind))[0], 0) for name in others]
    # A picture's seed is its own, whatever else is asked for: then nothing is drawn again when a list changes.
    requests = [(prompt, _seed(prompt, i)) for _, prompt, i in asked]
    names = [name for name, _, _ in asked]

    def look(use: Sequence[Edit], done: int) -> tuple[Images, list[bool]]:
        def tell(drawn: int, total: int) -> None:
            if progress:
                progress(done + drawn, 2 * total)

        with applied(family, use):
            images = draw(
                family,
                requests,
                steps=sampling.steps,
                guidance=sampling.guidance,
                batch=sampling.batch,
                cache=cache,
                progress=tell,
            )
        return images, scorer.sees(images, names)

    old, was = look((), 0)
    new, now = look(edits, len(requests))
    verdicts = []
    for i, concept in enumerate(concepts):
        rows = [r for r in range(i * pictures, (i + 1) * pictures) if was[r]]
        first = rows[0] if rows else i * pictures
        gone = rate([not now[r] for r in rows]) if rows else None
        verdicts.append(Verdict(concept, gone, old[first], new[first]))
    rest = [r for r in range(len(concepts) * pictures, len(asked)) if was[r]]
    retained = rate([now[r] for r in rest]) if rest else None
    return Verification(scorer.name, verdicts, retained, len(others))


def _cycled(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]


def _seed(prompt: str, index: int) -> int:
    return seed_of("verify", prompt, index)
