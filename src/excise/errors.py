"""Errors a person can act on: what was seen, what was expected, what to do next. The command line exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExciseError(Exception):
    """Base of every error that is the caller's to mend."""


class UnknownNameError(ExciseError):
    """A name that is in none of our lists."""


class ConceptError(ExciseError):
    """A concept or preserve list that cannot be used."""


class SettingError(ExciseError):
    """An unknown setting, or a value of the wrong type or range."""


class ModelError(ExciseError):
    """A model that cannot be found, read or handled."""


class EditFileError(ExciseError):
    """An edit file that cannot be read."""


class WrongBaseError(ExciseError):
    """An edit applied to another model than the one it was made for."""


class TrainingError(ExciseError):
    """Training that cannot go on as it was asked for."""


class PluginError(ExciseError):
    """A class of another package that does not keep the contract of what it is registered as."""


class JudgeError(ExciseError):
    """A judge of the caller's that cannot be used, or whose answers do not fit the images."""


class IllConditionedError(ExciseError):
    """A system of equations whose solution would be noise."""


class ExciseWarning(UserWarning):
    """Something a person should know about a result that was made all the same."""


class PluginWarning(ExciseWarning):
    """A package that adds to excise does not work and is left out."""


class OutputError(ExciseError):
    """A file or folder that cannot be written."""


class HubError(ExciseError):
    """A model hub that cannot be reached, or does not let the caller write."""


class GatesFailed(Exception):
    """A result did not reach its gates: the command ends with exit status 1, which nothing else has.

    Everything was written and printed before.
    """


def closest(seen: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like an unknown one; None where none is much like it."""
    return next(iter(difflib.get_close_matches(seen, sorted(known), n=1)), None)


def unknown(kind: str, seen: str, known: Iterable[str], see: str = "") -> UnknownNameError:
    """The error for an unknown name: the nearest known one, then the list."""
    known = sorted(known)
    near = closest(seen, known)
    hint = f"Did you mean '{near}'? " if near else ""
    return UnknownNameError(f"no {kind} '{seen}'. {hint}Known: {', '.join(known)}.{' ' + see if see else ''}")
