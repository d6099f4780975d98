"""Names that are spelled in more than one way."""

from __future__ import annotations

import unicodedata

_PLAIN = ("LATIN", "GREEK", "CYRILLIC")  # scripts whose accents are left out in file names and keys
_SIGNS = "+#"  # part of a name, as in C++


def squashed(name: str) -> str:
    """Return a name without case, blanks and hyphens, and without the accents of Latin, Greek and Cyrillic letters.

    >>> squashed("Paul-Cézanne"), squashed("paul cezanne"), squashed("C++")
    ('paulcezanne', 'paulcezanne', 'c++')
    """
    kept, plain = [], False
    for char in unicodedata.normalize("NFKD", name).casefold():
        if unicodedata.combining(char) and plain:
            continue
        mark = unicodedata.category(char).startswith("M")
        plain = plain if mark else unicodedata.name(char, "").startswith(_PLAIN)
        if char.isalnum() or char in _SIGNS or mark:
            kept.append(char)
    return "".join(kept)


def same_name(one: str, other: str) -> bool:
    """Return whether two spellings are of one name; one without a letter or digit is that of none.

    >>> same_name("salvador-dali", "Salvador Dalí"), same_name("C++", "C#")
    (True, False)
    """
    return bool(squashed(one)) and squashed(one) == squashed(other)
