"""Which attacks a suite makes, with which settings and budget; every name and setting is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from excise.attacks import ATTACKS, SUITES, Planned
from excise.attacks.base import Attack, AttackSettings
from excise.attacks.contract import check_attack
from excise.errors import SettingError, unknown
from excise.support.strict import explain

VARIANT_SETTINGS = ("form", "given", "part", "pictures", "train", "unrelated", "way")
"""Settings that tell apart the attacks of a suite that share a class."""


@dataclass(frozen=True)
class Budget:
    """Number of test prompts, and of pictures that each may have."""

    tests: int
    images: int


def budget_of(suite: str, tests: int | None = None, images: int | None = None) -> Budget:
    """Return the budget of a suite, with the caller's numbers in place of its own.

    Raises:
        UnknownNameError: there is no such suite.
        SettingError: the budget is zero.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    defaults = SUITES[suite]
    budget = Budget(
        defaults.tests if tests is None else tests,
        defaults.images if images is None else images,
    )
    if min(budget.tests, budget.images) < 1:
        raise SettingError("a budget of no pictures attacks nothing; give --images and --tests of 1 or more.")
    return budget


def planned(suite: str, names: Sequence[str] = ()) -> list[Planned]:
    """Return the attacks of a suite, or of those only the named ones.

    An attack of the suite `full` that this suite lacks is named as there, with the settings that it has there. One of
    another package is in no suite; it is named as it is registered.

    Raises:
        UnknownNameError: no attack has that name.
        PluginError: the attack of that name is of another package and breaks the contract.
    """
    in_suite = {p.name: p for p in SUITES[suite].attacks}
    in_full = {p.name: p for p in SUITES["full"].attacks if p.attack not in {q.attack for q in in_suite.values()}}
    others = {name: Planned(name, name) for name in ATTACKS if name not in _suite_attacks()}
    available = {**others, **in_full, **in_suite}
    for name in names:
        if name not in available:
            ATTACKS.refuse_broken(name)
            raise unknown(f"attack of the suite '{suite}'", name, available)
    return [available[n] for n in names] or list(in_suite.values())


def check_settings(settings: Mapping[str, Any], attacks: Sequence[Planned]) -> None:
    """Refuse a setting that no attack has, or that would turn an attack of a suite into another one.

    Raises:
        UnknownNameError, SettingError: the first such setting.
    """
    names = {*_suite_attacks(), *(p.attack for p in attacks)}
    fields = {field for name in names for field in load_attack(name).Config.model_fields}
    for key in settings:
        if key not in fields:
            raise unknown("setting of an attack", key, fields)
        if key in VARIANT_SETTINGS:
            raise SettingError(f"'{key}' tells attacks of a suite apart; choose among them with --attack.")


def configured(plan: Planned, settings: Mapping[str, Any]) -> Attack[AttackSettings]:
    """Return an attack with its settings: the caller's, then those of the suite, then the defaults.

    Args:
        settings: for every attack that has them; the others pass them over.

    Raises:
        SettingError: a value is out of range.
    """
    attack = load_attack(plan.attack)
    applicable = {k: v for k, v in settings.items() if k in attack.Config.model_fields}
    try:
        config = attack.Config.model_validate({**plan.settings, **applicable})
    except ValidationError as error:
        raise SettingError(f"{plan.attack}: {explain(error, attack.Config.model_fields)}") from error
    return attack(config)


def load_attack(name: str) -> type[Attack[AttackSettings]]:
    """Return a registered attack's class, imported now.

    Raises:
        UnknownNameError: no attack has that name.
        PluginError: the class breaks the contract of an attack.
    """
    return check_attack(name, ATTACKS.load(name))


def _suite_attacks() -> set[str]:
    """Return the registered names of all attacks that some suite has: those of this package."""
    return {p.attack for suite in SUITES.values() for p in suite.attacks}
