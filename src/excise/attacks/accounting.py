"""What an attack's pictures are worth: rates, budgets, the control, the model that never knew the concept, the gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from excise.attacks.base import Round
from excise.metrics.paired import paired_difference
from excise.metrics.rates import Estimate, rate
from excise.training.scorers import Scorer


@dataclass(frozen=True)
class Outcome:
    """What one attack did to one model.

    Attributes:
        tests: the test prompts. shown: (tests, pictures) which pictures show the target by the judge that counts.
        disagree: share of pictures of which a second judge says otherwise; None without one.
        words: (tests, pictures) what was asked. drawn, passes: pictures and latents through the denoiser.
        peak_memory_mb: of this process. notes: what the attack found beside pictures.
    """

    tests: list[str]
    shown: list[list[bool]]
    disagree: float | None
    words: list[list[str]]
    drawn: int
    passes: int
    seconds: float
    peak_memory_mb: float
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> Estimate:
        """Share of pictures that show the target."""
        return rate([s for row in self.shown for s in row])

    @property
    def any_of_n(self) -> Estimate:
        """Share of test prompts of which any picture does."""
        return rate([any(row) for row in self.shown])

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "rate": self.rate.as_dict(),
            "any_of_n": self.any_of_n.as_dict(),
            "judges_disagree": self.disagree,
            "drawn": self.drawn,
            "passes": self.passes,
            "seconds": round(self.seconds, 3),
            "peak_memory_mb": round(self.peak_memory_mb),
            "notes": self.notes,
        }


def judged(
    rounds: Sequence[Round], name: str, judge: Scorer, second: Scorer | None, spent: dict[str, Any]
) -> tuple[Outcome, list[Image.Image]]:
    """An outcome, and its pictures in order.

    Args:
        spent: drawn, passes, seconds, peak_memory_mb and notes.
    """
    images = [s.image for r in rounds for s in r.shots]
    seen = judge.sees(images, [name] * len(images))
    other = second.sees(images, [name] * len(images)) if second else None
    rows = iter(seen)
    shown = [[next(rows) for _ in r.shots] for r in rounds]
    apart = float(np.mean(np.asarray(seen) != np.asarray(other))) if other is not None else None
    words = [[s.words for s in r.shots] for r in rounds]
    return Outcome([r.test for r in rounds], shown, apart, words, **spent), images


@dataclass(frozen=True)
class Result:
    """One attack of a suite, on the model, on its control and on the oracle.

    Attributes:
        name, attack, settings, access: what it is. images: pictures a test prompt may have.
        model: on the model under attack; None where it could not be made, and `why` says why.
        control: the same budget without the search. oracle: the same attack on a model that never knew the concept.
    """

    name: str
    attack: str
    settings: dict[str, Any]
    access: str
    images: int
    model: Outcome | None = None
    control: Outcome | None = None
    oracle: Outcome | None = None
    why: str = ""

    @property
    def gap(self) -> Estimate | None:
        """Any-of-N here less that of the oracle, or of the control where there is none; paired by test prompt."""
        base = self.oracle or self.control
        if self.model is None or base is None:
            return None
        here, there = ([float(any(row)) for row in side.shown] for side in (self.model, base))
        if len(here) == 1:  # nothing to resample
            return Estimate(here[0] - there[0], -1.0, 1.0, 1)
        return paired_difference(here, there, range(len(here)))

    def document(self) -> dict[str, Any]:
        """As JSON has it: rates are numbers between 0 and 1, with everything behind them under `outcomes`."""
        gap = self.gap
        sides = {"model": self.model, "control": self.control, "oracle": self.oracle}
        return {
            "name": self.name,
            "attack": self.attack,
            "settings": self.settings,
            "access": self.access,
            "budget": {
                "images": self.images,
                "tests": len(self.model.tests) if self.model else 0,
                "drawn": self.model.drawn if self.model else 0,
                "passes": self.model.passes if self.model else 0,
            },
            "rate": self.model.rate.value if self.model else None,
            "any_of_n": self.model.any_of_n.value if self.model else None,
            "control": self.control.any_of_n.value if self.control else None,
            "oracle": self.oracle.any_of_n.value if self.oracle else None,
            "gap": gap.value if gap else None,
            "gap_interval": [gap.low, gap.high] if gap else None,
            "why": self.why,
            "outcomes": {side: outcome.document() for side, outcome in sides.items() if outcome},
        }


def worst(results: Sequence[Result]) -> Result | None:
    """The attack with the largest gap; None where none could be made."""
    made = [r for r in results if r.gap is not None]
    return max(made, key=lambda r: r.gap.value if r.gap else 0.0) if made else None
