"""Names of files from words of a user's."""

from __future__ import annotations

import re
import unicodedata

MOST = 40  # characters


def slug(text: str, most: int = MOST) -> str:
    """Return a text as part of a file name: small Latin letters, digits and hyphens; empty where it has none of these.

    It is cut at a word where it is longer than `most` characters. Different texts may give the same name.

    >>> slug("A cat, in neon style!"), slug("Crème brûlée"), slug("../etc"), slug("猫")
    ('a-cat-in-neon-style', 'creme-brulee', 'etc', '')
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) <= most:
        return words
    cut = words[: most + 1].rpartition("-")[0]
    return (cut or words[:most]).strip("-")
