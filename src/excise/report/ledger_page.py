"""The auditor's page of a ledger: first whether it is intact, then one row a concept, then every entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from excise.concepts.concept import listed
from excise.policy.history import History
from excise.support.files import write_text


@dataclass(frozen=True)
class LedgerPage:
    """What the page of a ledger shows.

    Attributes:
        entries: those that the chain of hashes vouches for.
        concepts: one history a concept.
        fault: what is wrong with the ledger or with the edit in force; empty if nothing is.
        remark: what else there is to know about the edit.
        command: checks the ledger again.
    """

    entries: Sequence[Mapping[str, Any]]
    concepts: Sequence[History]
    fault: str = ""
    remark: str = ""
    command: str = ""

    @property
    def verdict(self) -> str:
        """The first line of the page."""
        if self.fault:
            return f"The ledger is NOT intact: {self.fault}"
        count = len(self.entries)
        text = f"The ledger is intact: {count} {'entry' if count == 1 else 'entries'}, each chained to the one before."
        return f"{text} {self.remark}".strip()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Names and values on the model, the edit and the ledger."""
        if not self.entries:
            return []
        last = self.entries[-1]
        models = dict.fromkeys(f"{e['model']['name']}, weights {e['model']['weights']}" for e in self.entries)
        judges = dict.fromkeys(e["verified"]["judge"] for e in self.entries if e["verified"])
        return [
            ("model", "; ".join(models)),
            ("edit in force", last["edit"] or "none"),
            ("last entry", f"{last['n']}, hash {last['hash']}"),
            ("judge", "; ".join(judges) or "none"),
            ("excise", ", ".join(dict.fromkeys(e["excise"] for e in self.entries))),
            ("check it again", self.command),
        ]


def write_ledger_page(page: LedgerPage, path: Path) -> Path:
    """Write the page, atomically; all names and texts in it are escaped."""
    environment = Environment(
        loader=PackageLoader("excise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"listed": lambda names: listed(names, 12), "minute": _minute}
    write_text(path, environment.get_template("ledger.html.j2").render(page=page))
    return path


def _minute(time: str) -> str:
    """A time to the minute."""
    return time[:16].replace("T", " ")
