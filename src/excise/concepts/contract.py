"""The contract of vocabularies that other packages register."""

from __future__ import annotations

from excise.concepts.vocabulary import VocabularySource
from excise.registry import made_by

VOCABULARY = made_by(
    "vocabulary",
    "vocabulary()",
    "an object of a class derived from excise.concepts.vocabulary.VocabularySource",
    lambda made: isinstance(made, VocabularySource),
)
