"""Registries: objects by name, imported when first used; other packages add theirs through entry points."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from excise.errors import PluginError, unknown

WITH_COMMAND = ("method", "protocol")  # kinds that a command lists
_TARGET = re.compile(r"[\w.]+:\w+")


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

    def load(self) -> Any:
        """Import the module and return the attribute."""
        module, attribute = self.target.split(":")
        return getattr(import_module(module), attribute)


class Registry:
    """A table of records by name, to which other packages add through entry points.

    Args:
        kind: the word used in messages.
        group: entry-point group; each entry point is an object of type `Record`.
        entries: the built-in table.
    """

    def __init__(self, kind: str, group: str, entries: dict[str, Record]) -> None:
        self.kind, self.group, self._entries = kind, group, entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.records())

    def is_built_in(self, name: str) -> bool:
        """Whether the entry is one of excise's own."""
        return name in self._entries

    def records(self) -> dict[str, Record]:
        """Every entry whose record can be read, built-in ones first."""
        return {**self._entries, **self._plugins()[0]}

    def broken(self) -> dict[str, PluginError]:
        """Entry points without a readable record, by name, each with its error."""
        return self._plugins()[1]

    def record(self, name: str) -> Record:
        """The record of `name`.

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
            raise unknown(self.kind, name, {**self._entries, **plugins}, see)
        return plugins[name]

    def load(self, name: str) -> Any:
        """The object behind `name`, imported now.

        Raises:
            UnknownNameError: there is no such entry.
            PluginError: the entry is of another package and cannot be imported.
        """
        record = self.record(name)
        if name in self._entries:
            return record.load()
        try:
            return record.load()
        except Exception as error:  # another package's import may raise anything
            raise PluginError(
                f"the {self.kind} '{name}' cannot be imported from {record.target} ({_reason(error)}); mend or "
                "uninstall the package that registers it."
            ) from error

    def _plugins(self) -> tuple[dict[str, Record], dict[str, PluginError]]:
        """The records of other packages, and the errors of those that cannot be read, by name."""
        records: dict[str, Record] = {}
        broken: dict[str, PluginError] = {}
        for entry in entry_points(group=self.group):
            name, where = entry.name, f"the {self.kind} '{entry.name}' of the entry point {entry.value}"
            if name in self._entries:
                broken[name] = PluginError(f"{where} has the name of a built-in {self.kind}; give it another name.")
                continue
            try:
                record = entry.load()
            except Exception as error:  # another package's import may raise anything
                broken[name] = PluginError(
                    f"{where} cannot be imported ({_reason(error)}); mend or uninstall the package that registers it."
                )
                continue
            if not isinstance(record, Record):
                broken[name] = PluginError(
                    f"{where} is a {type(record).__name__}; expected an object of type excise.registry.Record."
                )
            elif not _TARGET.fullmatch(record.target):
                broken[name] = PluginError(f"{where} has the target '{record.target}'; expected module:attribute.")
            else:
                records[name] = record
        return records, broken


def _reason(error: Exception) -> str:
    """Type and first line of an error."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
