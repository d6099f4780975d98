"""Which methods fit which model families: a family must provide whatever a method needs. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from excise.errors import ModelError
from excise.families import FAMILIES, family_name_of
from excise.families.capabilities import CAPABILITIES
from excise.methods import METHODS
from excise.registry import Record


def families_for(record: Record) -> list[str]:
    """Names of the registered families that provide what a method needs."""
    return [name for name, family in FAMILIES.records().items() if record.needs <= family.provides]


def methods_for(provides: Collection[str]) -> list[str]:
    """Names of the registered methods that need nothing else than these capabilities."""
    return [name for name, record in METHODS.records().items() if record.needs <= set(provides)]


def check_fits(method: str, family: str, provides: Collection[str]) -> None:
    """Refuse a method that needs what a family does not provide.

    Args:
        method: a registered name.
        family: name of the family, for the message.
        provides: capabilities of the family.

    Raises:
        ModelError: the message names what is missing, families that fit the method and methods that fit the family.
        UnknownNameError: there is no such method.
    """
    record = METHODS.record(method)
    missing = sorted(record.needs - set(provides))
    if not missing:
        return
    needs = "; ".join(f"{CAPABILITIES.get(need, 'a capability of a plug-in')} ({need})" for need in missing)
    raise ModelError(
        f"{method} needs {needs}, which the model family '{family}' does not provide. Families that fit {method}: "
        f"{', '.join(families_for(record)) or 'none'}. Methods that fit {family}: "
        f"{', '.join(methods_for(provides)) or 'none'}."
    )


def check_fits_model(method: str, model: str | Path) -> None:
    """Refuse a method that does not fit a model, or is broken, before the model is loaded.

    Where the files do not tell the family (hub ids, files that cannot be read), `erase` checks the loaded model.

    Raises:
        ModelError: as `check_fits`.
        UnknownNameError: there is no such method.
        PluginError: the method is of another package and breaks the contract.
    """
    family = family_name_of(model)
    if family is not None:
        check_fits(method, family, FAMILIES.record(family).provides)
    METHODS.check(method)
