"""Names that are spelled in more than one way."""

from __future__ import annotations

import unicodedata


def squashed(name: str) -> str:
    """Return a name without case, accents, blanks, hyphens and other signs.

    >>> squashed("Paul-Cézanne"), squashed("paul cezanne")
    ('paulcezanne', 'paulcezanne')
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(c for c in plain.casefold() if c.isalnum())


def same_name(one: str, other: str) -> bool:
    """Return whether two spellings are of one name; one without a letter or digit is that of none.

    >>> same_name("salvador-dali", "Salvador Dalí")
    True
    """
    return bool(squashed(one)) and squashed(one) == squashed(other)
