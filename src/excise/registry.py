"""Registries: objects by name, imported when first used; other packages add theirs through entry points.

An entry point names a `Record`, or the class or function itself. One that cannot be imported, or whose object breaks
the contract of its kind, is left out and named once in a warning; asking for it by name raises the reason.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from excise.errors import ExciseError, PluginError, PluginWarning, unknown

WITH_COMMAND = ("method", "protocol")  # kinds that a command lists
_TARGET = re.compile(r"[\w.]+:\w+(\.\w+)*")


@dataclass(frozen=True)
class Record:
    """What is known about an entry without importing it.

    Attributes:
        target: "module:attribute".
        title: one line for people.
        paper: the source, or "".
        shape: closed-form, trained or inference-time.
        cost: time and memory, in words.
        licence: provenance and the licence of the official code.
        needs: capabilities that a model family must provide (families/capabilities.py).
        provides: capabilities of a model family.
        config: of a built-in method, "module:attribute" of its settings, whose module imports no torch.
        pipelines: a model family's pipeline classes in diffusers, without the ending "Pipeline".
    """

    target: str
    title: str
    paper: str = ""
    shape: str = ""
    cost: str = ""
    licence: str = ""
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    pipelines: tuple[str, ...] = ()
    config: str = ""

    def load(self) -> Any:
        """Import the module and return the attribute."""
        return _attribute(self.target)

    def load_config(self) -> Any:
        """Import the module of the settings and return their class."""
        return _attribute(self.config)


Contract = Callable[[str, Record, Any], Any]
"""Takes the name, the record and the object of an entry of another package; returns what `Registry.load` returns.

It raises PluginError, in one sentence, where the object breaks the contract of its kind.
"""


class Registry:
    """A table of records by name, to which other packages add through entry points.

    Args:
        kind: the word used in messages.
        group: entry-point group; each entry point is an object of type `Record`, or the class or function itself.
        entries: the built-in table.
        contract: "module:function", a `Contract` that the objects of other packages must pass.
        facts: "module:function" that returns fields of `Record` for an object registered without one.

    Attributes:
        warned: the messages about entry points that were left out, each of which is given once.
    """

    def __init__(
        self, kind: str, group: str, entries: dict[str, Record], *, contract: str = "", facts: str = ""
    ) -> None:
        self.kind, self.group, self._entries = kind, group, entries
        self._contract, self._facts = contract, facts
        self.warned: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self.records())

    def is_built_in(self, name: str) -> bool:
        """Whether the entry is one of excise's own."""
        return name in self._entries

    def records(self) -> dict[str, Record]:
        """Every entry that can be used, built-in ones first. The others are left out, with one warning each."""
        usable, broken = self._checked()
        for error in broken.values():
            self._warn(error)
        return {**self._entries, **usable}

    def broken(self) -> dict[str, PluginError]:
        """Entry points that cannot be used, by name, each with its error."""
        return self._checked()[1]

    def refuse_broken(self, name: str) -> None:
        """Say why an entry of another package is left out, where a caller's own list of names lacks it.

        Raises:
            PluginError: the name is that of a broken entry.
        """
        if name not in self._entries and (error := self.broken().get(name)):
            raise error

    def record(self, name: str) -> Record:
        """The record of `name`; the object behind it is not checked.

        Raises:
            UnknownNameError: with the nearest name and the list.
            PluginError: another package registers the name, and its record cannot be read.
        """
        if name in self._entries:
            return self._entries[name]
        plugins, broken = self._plugins()
        if name in broken:
            raise broken[name]
        if name not in plugins:
            see = f"See: excise {self.kind}s" if self.kind in WITH_COMMAND else ""
            raise unknown(self.kind, name, self.records(), see)
        return plugins[name]

    def load(self, name: str) -> Any:
        """The object behind `name`, imported now.

        Raises:
            UnknownNameError: there is no such entry.
            PluginError: the entry is of another package, and cannot be imported or breaks the contract of its kind.
        """
        record = self.record(name)
        return record.load() if name in self._entries else self._load(name, record)

    def check(self, name: str) -> None:
        """Refuse a name that cannot be used, before any work; nothing of excise's own is imported.

        Raises:
            UnknownNameError, PluginError: as `load`.
        """
        if name not in self._entries:
            self._load(name, self.record(name))

    def _load(self, name: str, record: Record) -> Any:
        """Import the object of another package, and check its contract."""
        try:
            loaded = record.load()
        except (Exception, SystemExit) as error:  # another package's import may raise anything
            raise PluginError(
                f"the {self.kind} '{name}' cannot be imported from {record.target} ({_reason(error)}); mend or "
                "uninstall the package that registers it."
            ) from error
        if not self._contract:
            return loaded
        try:
            return _function(self._contract)(name, record, loaded)
        except PluginError:
            raise
        except Exception as error:  # members of another package's class may be anything
            raise PluginError(
                f"the {self.kind} '{name}' ({record.target}) breaks the contract of a {self.kind} ({_reason(error)})."
            ) from error

    def _checked(self) -> tuple[dict[str, Record], dict[str, PluginError]]:
        """The records of other packages whose objects keep the contract, and the errors of the others, by name."""
        records, broken = self._plugins()
        usable: dict[str, Record] = {}
        for name, record in records.items():
            try:
                self._load(name, record)
            except PluginError as error:
                broken[name] = error
            else:
                usable[name] = record
        return usable, broken

    def _plugins(self) -> tuple[dict[str, Record], dict[str, PluginError]]:
        """The records of other packages, and the errors of those that cannot be read, by name."""
        records: dict[str, Record] = {}
        broken: dict[str, PluginError] = {}
        for entry in entry_points(group=self.group):
            try:
                records.setdefault(entry.name, self._read(entry))  # of two packages the first found has the name
            except PluginError as error:
                broken.setdefault(entry.name, error)
        return records, {name: error for name, error in broken.items() if name not in records}

    def _read(self, entry: EntryPoint) -> Record:
        """The record of an entry point.

        Raises:
            PluginError: it has the name of a built-in entry, cannot be imported, or has no readable record.
        """
        package = f" of the package {entry.dist.name}" if entry.dist is not None else ""
        where = f"the {self.kind} '{entry.name}' of the entry point {entry.value}{package}"
        if entry.name in self._entries:
            raise PluginError(f"{where} has the name of a built-in {self.kind}; give it another name.")
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # another package's import may raise anything
            raise PluginError(
                f"{where} cannot be imported ({_reason(error)}); mend or uninstall the package that registers it."
            ) from error
        if isinstance(loaded, Record):
            return _readable(loaded, where)
        if not (inspect.isclass(loaded) or inspect.isfunction(loaded)):
            raise PluginError(
                f"{where} is a {type(loaded).__name__}; expected a class or a function, or an object of type "
                "excise.registry.Record."
            )
        record = Record(f"{loaded.__module__}:{loaded.__qualname__}", _title(loaded, entry.name))
        more: Mapping[str, Any] = _function(self._facts)(loaded) if self._facts else {}
        return _readable(replace(record, **more), where)

    def _warn(self, error: PluginError) -> None:
        """Name an entry point that is left out, once."""
        message = f"{error} Until then it is left out."
        if message not in self.warned:
            self.warned.add(message)
            warnings.warn(message, PluginWarning, stacklevel=3)


def made_by(kind: str, call: str, expected: str, fits: Callable[[Any], bool]) -> Contract:
    """The contract of entries that are functions (or classes) to be called: how they are called, and what they return.

    Args:
        kind: the word used in messages.
        call: the call in messages, such as "judge(weights)"; its arguments are counted.
        expected: what the call returns, in messages.
        fits: whether something returned is that.

    Returns:
        A contract that passes what can be called so, wrapped so that every result is checked.
    """
    arguments = [word for word in call.partition("(")[2].rstrip(")").split(", ") if word]

    def contract(name: str, record: Record, loaded: Any) -> Any:
        where = f"the {kind} '{name}' ({record.target})"
        try:
            inspect.signature(loaded).bind(*arguments)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{where} cannot be called as {call} ({error}); it returns {expected}.") from error

        def make(*values: Any) -> Any:
            try:
                result = loaded(*values)
            except ExciseError:
                raise
            except Exception as error:  # of another package
                raise PluginError(f"{where} fails when it is called as {call} ({_reason(error)}).") from error
            if not fits(result):
                raise PluginError(f"{where} returns a {type(result).__name__} from {call}; expected {expected}.")
            return result

        return make

    return contract


def _attribute(target: str) -> Any:
    """What a "module:attribute" names, imported now."""
    module, attribute = target.split(":")
    return reduce(getattr, attribute.split("."), import_module(module))


def _function(target: str) -> Callable[..., Any]:
    """The function that a "module:function" names."""
    function: Callable[..., Any] = Record(target, "").load()
    return function


def _readable(record: Record, where: str) -> Record:
    """The record, with its sets as sets.

    Raises:
        PluginError: a field is of another type, or the target is no "module:attribute".
    """
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    for name, value in values.items():
        if name in ("needs", "provides", "pipelines"):
            fits = isinstance(value, (set, frozenset, tuple, list)) and all(isinstance(word, str) for word in value)
            expected = "a set of words"
        else:
            fits, expected = isinstance(value, str), "a text"
        if not fits:
            raise PluginError(f"{where} has the {name} {value!r} in its record; expected {expected}.")
    if not _TARGET.fullmatch(record.target):
        raise PluginError(f"{where} has the target '{record.target}'; expected module:attribute.")
    return replace(
        record,
        needs=frozenset(record.needs),
        provides=frozenset(record.provides),
        pipelines=tuple(record.pipelines),
    )


def _title(loaded: Any, name: str) -> str:
    """The first line of an object's own documentation without its full stop; its name where there is none."""
    lines = (vars(loaded).get("__doc__") if inspect.isclass(loaded) else loaded.__doc__) or ""
    return (lines.strip().splitlines() or [name])[0].strip().removesuffix(".")


def _reason(error: BaseException) -> str:
    """Type and first line of an error."""
    try:
        first = (str(error).splitlines() or [""])[0]
    except Exception:  # of another package: its text may fail too
        first = ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
