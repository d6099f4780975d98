"""What a model makes usual of a method's settings. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from excise.families import FAMILIES, family_name_of
from excise.families.built_in import presets_for, presets_of
from excise.families.capabilities import TOLD_BEHIND
from excise.support.settings import Usual

if TYPE_CHECKING:
    from excise.families.base import Family


def usual_of(model: str) -> Usual:
    """What a name or a folder makes usual, as far as its files tell (`family_name_of`)."""
    family = family_name_of(model)
    return Usual(presets_of(model), family is not None and told_behind(FAMILIES.record(family).provides))


def usual_for(family: Family) -> Usual:
    """What a loaded model makes usual."""
    return Usual(presets_for(family), told_behind(family.provides))


def told_behind(provides: Collection[str]) -> bool:
    """Whether tokens behind a subject tell it as it does, so that presets of kinds must reach them."""
    return TOLD_BEHIND in provides
