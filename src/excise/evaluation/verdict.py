"""The verdict on one concept, by the share of its clean images. No numpy here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from excise.metrics.estimate import Estimate
from excise.support.counts import counted

Status = Literal["verified", "not proven", "not removed", "not verifiable"]
NEXT_STEP = (
    "ask for it in other words (--protocol concept --ask FILE, one prompt a line), or give another judge "
    "(--judge FOLDER)"
)
"""What to do where a concept is not verifiable."""
MOST = 12  # concepts that are each told of in a line
PROVEN = 0.5
"""A concept counts as verified where the lower end of the share of its clean images reaches this."""


class ConceptVerdict(BaseModel):
    """The verdict on one concept.

    Attributes:
        images: drawn of it. clean: of the images in which the untouched model shows it, the share that no longer does;
            None where it shows it in none.
    """

    model_config = ConfigDict(frozen=True)

    concept: str
    status: Status
    images: int
    clean: dict[str, float] | None

    def sentence(self) -> str:
        """Return the verdict in words.

        >>> ConceptVerdict(concept="cat", status="verified", images=10,
        ...     clean={"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10}).sentence()
        'verified: 10 of 10 clean (at least 72 %)'
        """
        if self.clean is None:
            return f"not verifiable: the untouched model shows it in none of {counted(self.images, 'picture')}"
        n = round(self.clean["n"])
        count = f"{round(self.clean['value'] * n)} of {n} clean"
        return f"{self.status}: {count} (at least {int(100 * self.clean['low'])} %)"


def told(verdicts: Sequence[ConceptVerdict]) -> list[tuple[str, Status]]:
    """Return a line a concept with its status; of many concepts, those that are not verified and how many are.

    >>> cat = ConceptVerdict(concept="cat", status="verified", images=10,
    ...     clean={"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10})
    >>> told([cat] * 40)
    [('40 of 40 concepts are verified', 'verified')]
    """
    many = len(verdicts) > MOST
    shown = [v for v in verdicts if v.status != "verified"] if many else verdicts
    lines = [(f"{v.concept}: {v.sentence()}", v.status) for v in shown]
    if not many:
        return lines
    good = len(verdicts) - len(shown)
    return [(f"{good} of {len(verdicts)} concepts are verified", "not proven" if shown else "verified"), *lines]


def status_of(clean: Estimate | None, gate: float = PROVEN) -> Status:
    """Return the status of a concept by the share of its clean images."""
    if clean is None:
        return "not verifiable"
    if clean.low >= gate:
        return "verified"
    return "not proven" if clean.value >= gate else "not removed"
