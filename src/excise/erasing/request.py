"""What was asked for, checked, as every method is handed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.concepts.concept import (
    Concept,
)
from excise.concepts.vocabulary import Vocabulary
from excise.families.base import Family


@dataclass(frozen=True)
class Request:
    """What was asked for, checked, with the vocabulary's prompts."""

    family: Family
    concepts: Sequence[Concept]
    retain: Sequence[str]
    preserve: Sequence[str]
    words: Vocabulary
    seed: int
    states: Path | None = None
