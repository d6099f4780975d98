"""The check that a class keeps the contract of an attack, before it is used."""

from __future__ import annotations

import inspect
from typing import get_args

from excise.attacks.base import Access, Attack, AttackSettings
from excise.errors import PluginError
from excise.registry import Record

_SIGNATURES = {
    "control": (1, "a method control(self) that returns a Control"),
    "passes": (2, "a method passes(self, tests) that returns a number of denoiser passes"),
    "run": (2, "a method run(self, arena) that returns a list of Round"),
}


def contract(name: str, record: Record, loaded: object) -> type[Attack[AttackSettings]]:
    """The `Contract` of attacks in the registry; raises as `check_attack`."""
    return check_attack(name, loaded)


def check_attack(name: str, loaded: object) -> type[Attack[AttackSettings]]:
    """Return a loaded attack class if it keeps the contract of `Attack`.

    Raises:
        PluginError: it does not; the message names the member and what is expected.
    """

    def refused(member: str, seen: object, expected: str) -> PluginError:
        return PluginError(f"the attack '{name}': `{member}` is {seen}; expected {expected}.")

    if not (isinstance(loaded, type) and issubclass(loaded, Attack)):
        raise PluginError(f"the attack '{name}' is {loaded!r}; expected a subclass of excise.attacks.base.Attack.")
    members = {m: getattr(loaded, m, None) for m in ("access", "teaches", "Config", *_SIGNATURES)}
    if members["access"] not in get_args(Access):
        raise refused("access", _shown(members["access"]), f"one of {', '.join(map(repr, get_args(Access)))}")
    if not isinstance(members["teaches"], bool):
        raise refused("teaches", _shown(members["teaches"]), "True or False")
    if not (isinstance(members["Config"], type) and issubclass(members["Config"], AttackSettings)):
        raise refused("Config", _shown(members["Config"]), "a subclass of excise.attacks.base.AttackSettings")
    for member, (arguments, expected) in _SIGNATURES.items():
        if member in loaded.__abstractmethods__:
            raise refused(member, "missing", expected)
        try:
            inspect.signature(members[member]).bind(*[None] * arguments)  # type: ignore[arg-type]
        except TypeError:
            raise refused(member, _shown(members[member]), expected) from None
    return loaded


def _shown(member: object) -> str:
    """A member as a message shows it."""
    if member is None:
        return "missing"
    return f"{member.__name__}{inspect.signature(member)}" if inspect.isfunction(member) else repr(member)
