"""The contracts of judges and feature spaces that other packages register."""

from __future__ import annotations

from typing import Any

from excise.registry import made_by


def _is_judge(made: Any) -> bool:
    """Whether an object has the members of `Judge`."""
    return callable(getattr(made, "verdicts", None)) and isinstance(getattr(made, "name", None), str)


JUDGE = made_by(
    "judge",
    "judge(weights)",
    "an object with `name` and `verdicts(images)`, given a folder of weights or None",
    _is_judge,
)
FEATURES = made_by(
    "feature space", "features(weights)", "a function of images, given a folder of weights or None", callable
)
