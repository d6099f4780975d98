"""The models that ship inside the package: their names and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from excise.support.files import resolved

if TYPE_CHECKING:
    from excise.families.base import Family

WEIGHTS = Path(__file__).parents[1] / "canvas" / "weights"
BUILT_IN = ("canvas-sd", "canvas-sdxl", "canvas-sana")


def is_built_in(family: Family) -> bool:
    """Whether the model is one of those that ship with the package."""
    return resolved(family.pipe.config.get("_name_or_path")) in _folders()


def names_built_in(model: str | None) -> bool:
    """Whether a model that is named, by its name or its folder, is one of those that ship with the package."""
    return model in BUILT_IN or resolved(model) in _folders()


def _folders() -> list[Path]:
    return [(WEIGHTS / name).resolve() for name in BUILT_IN]
