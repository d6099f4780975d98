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


def size_text(size: float) -> str:
    """Return a number of bytes in decimal units, as every command prints it.

    >>> size_text(512), size_text(500_000), size_text(1_234_567)
    ('512 B', '500 kB', '1.2 MB')
    """
    if size < 1e3:
        return f"{size:.0f} B"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
