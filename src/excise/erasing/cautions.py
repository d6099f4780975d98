"""Warnings about a request that can be made, but hardly means what it says. No torch here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from excise.concepts.concept import Concept
from excise.concepts.vocabulary import chosen_vocabulary
from excise.errors import ExciseWarning
from excise.support.settings import OFFICIAL


def vocabulary_name(vocabulary: str | None, settings: Mapping[str, Any]) -> str | None:
    """The vocabulary of a request; "auto" is none with an official preset, as a program retains only given names."""
    official = str(settings.get("preset", "")).startswith(OFFICIAL)
    return None if vocabulary == "auto" and official else vocabulary


def warn_of_nothing_kept(preserve: Sequence[str], vocabulary: str | None) -> None:
    """Warn of a request to a model that is not a built-in one, where no name is retained.

    Args:
        preserve: the names that the caller gave.
        vocabulary: as `vocabulary_name` returns it.
    """
    if not preserve and chosen_vocabulary(vocabulary, built_in=False) is None:
        warnings.warn(
            "there is nothing to keep: no name is given and no vocabulary is used, so everything near the concept may "
            "change with it; give names with --preserve-file FILE (in Python: preserve=[...]), or the built-in list "
            "with --vocabulary ordinary.",
            ExciseWarning,
            stacklevel=1,
        )


def warn_of_pieces(concepts: Sequence[Concept], tokenizers: Mapping[str, Any]) -> None:
    """Warn of names with a word that a tokenizer of the model breaks into pieces of one or two letters.

    The model has hardly seen such a word, or it is a slip; its pieces are part of many other words.

    Args:
        tokenizers: of the model, by name.
    """
    for concept in concepts:
        for word in concept.name.split():
            pieces = next((p for t in tokenizers.values() if _unusual(p := _pieces(t, word), word)), None)
            if pieces is not None:
                warnings.warn(
                    f"the model's tokenizer breaks '{word}' into {len(pieces)} pieces ({' '.join(pieces)}), as it does "
                    "with slips and with words that it has hardly seen; check the spelling, and look at pictures "
                    "before and after.",
                    ExciseWarning,
                    stacklevel=1,
                )


def _pieces(tokenizer: Any, word: str) -> list[str]:
    """The pieces into which a tokenizer breaks a word, without its marks of beginnings and ends."""
    tokens: list[str] = tokenizer.tokenize(word)
    return [token.replace("</w>", "").strip("\u0120\u2581 ") for token in tokens]


def _unusual(pieces: Sequence[str], word: str) -> bool:
    """Whether a word of letters has at least three pieces, and at most two letters a piece."""
    return word.isalpha() and word.isascii() and len(pieces) >= 3 and len(word) <= 2 * len(pieces)
