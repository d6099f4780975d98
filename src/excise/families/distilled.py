"""Models that were distilled until they draw without guidance: what is said where a scale of guidance is asked for."""

from __future__ import annotations

import warnings

from excise.errors import ExciseWarning
from excise.families.base import Family


def warn_of_guidance(family: Family, scale: float) -> None:
    """Warn that a scale of guidance changes nothing, where that is so; Python shows the same warning once.

    Args:
        scale: the one that was asked for; 1 is none.
    """
    if scale != 1 and not family.guides:
        warnings.warn(
            f"a guidance of {scale:g} changes nothing here: this {type(family.pipe).__name__} was distilled and draws "
            "without a second half of guidance, so that its pictures are the same with every scale.",
            ExciseWarning,
            stacklevel=2,
        )
