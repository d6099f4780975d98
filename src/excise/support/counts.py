"""Numbers of things in words."""

from __future__ import annotations


def counted(number: int, noun: str, many: str | None = None) -> str:
    """Return a number with its noun, in the singular after one.

    Args:
        noun: in the singular. many: its plural, where that is not the noun with an "s".

    >>> counted(1, "image"), counted(3120, "image"), counted(2, "matrix", "matrices")
    ('1 image', '3,120 images', '2 matrices')
    """
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def agreeing(number: int, one: str, many: str) -> str:
    """Return the form of a verb that agrees with a number.

    >>> agreeing(1, "passes", "pass"), agreeing(2, "passes", "pass")
    ('passes', 'pass')
    """
    return one if number == 1 else many
