"""The models that ship with the package: their names and their folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from excise.support.files import resolved

if TYPE_CHECKING:
    from excise.families.base import Family

WEIGHTS = Path(__file__).parents[1] / "canvas" / "weights"
BUILT_IN = ("canvas-sd", "canvas-sdxl", "canvas-sana", "canvas-flux", "canvas-zimage")
CANVAS = BUILT_IN
"""The models of Canvas that `excise canvas train` makes; those of `BUILT_IN` ship with the package."""


def is_built_in(family: Family) -> bool:
    """Whether a model ships with the package."""
    return resolved(family.pipe.config.get("_name_or_path")) in _folders()


def names_built_in(model: str | None) -> bool:
    """Whether a name or a folder is that of a model that ships with the package."""
    return model in BUILT_IN or resolved(model) in _folders()


def presets_of(model: str | None) -> tuple[str, ...]:
    """Presets of settings for a built-in model, given by name or folder, the nearest first; none for other models.

    >>> presets_of("canvas-flux"), presets_of("stable-diffusion-v1-5/stable-diffusion-v1-5")
    (('canvas-flux', 'canvas'), ())
    """
    folder = WEIGHTS / model if model in BUILT_IN else resolved(model)
    return (folder.name, "canvas") if folder is not None and names_built_in(model) else ()


def presets_for(family: Family) -> tuple[str, ...]:
    """Presets for a loaded model, as `presets_of` for a name; none for a folder that only bears a built-in name."""
    return presets_of(family.pipe.config.get("_name_or_path")) if is_built_in(family) else ()


def names_canvas(model: str | None) -> bool:
    """Whether a name or folder is that of a model of Canvas: a built-in one, or one of `excise canvas train`."""
    return names_built_in(model) or (model is not None and Path(model).name in CANVAS)


def _folders() -> list[Path]:
    """The folders of the built-in models."""
    return [(WEIGHTS / name).resolve() for name in BUILT_IN]
