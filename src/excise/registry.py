"""Names to objects, imported only when used, open to other packages through entry points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from excise.errors import unknown


@dataclass(frozen=True)
class Record:
    """What is known about an entry without importing it.

    Attributes:
        target: "module:attribute".
        title: one line for people.
        paper: the source, or "".
        shape: closed-form, trained or inference-time.
        families: the model families it works on.
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
    families: tuple[str, ...] = ()
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
    """A table of records by name, joined by the entry points of other packages.

    Args:
        kind: the word used in messages.
        group: entry-point group; each entry point is an object of type `Record`.
        entries: the built-in table.
    """

    def __init__(self, kind: str, group: str, entries: dict[str, Record]) -> None:
        self.kind, self.group, self._entries = kind, group, entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.records())

    def records(self) -> dict[str, Record]:
        """Every entry; a built-in name cannot be taken over."""
        found = {e.name: e.load() for e in entry_points(group=self.group) if e.name not in self._entries}
        return {**self._entries, **found}

    def record(self, name: str) -> Record:
        """The record of `name`.

        Raises:
            UnknownNameError: with the nearest name and the list.
        """
        records = self.records()
        if name not in records:
            raise unknown(self.kind, name, records, f"See: excise {self.kind}s")
        return records[name]

    def load(self, name: str) -> Any:
        """The object behind `name`, imported now."""
        return self.record(name).load()
