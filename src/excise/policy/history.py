"""The history of each concept in a ledger: who requested its removal, how it was verified, who withdrew the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from excise.concepts.concept import normalise_name
from excise.evaluation.verdict import ConceptVerdict, status_of
from excise.metrics.estimate import Estimate

NO_JUDGE = "not verified: there was no judge"


@dataclass(frozen=True)
class Event:
    """Who did something about a concept, when, under which reference, and why; texts are empty where nobody said."""

    by: str = ""
    date: str = ""
    reference: str = ""
    reason: str = ""

    def text(self) -> str:
        """Return what is known in one line.

        >>> Event("Studio A", "2026-01-10", "R-100", "licence ended").text()
        'Studio A, 2026-01-10, R-100: licence ended'
        """
        known = ", ".join(part for part in (self.by, self.date, self.reference) if part)
        return ": ".join(part for part in (known, self.reason) if part)


@dataclass(frozen=True)
class History:
    """One concept in a ledger.

    Attributes:
        name, kind: of the concept.
        request: the last request for its removal.
        removed_in, removed_at: the entry that removed it last, and its time.
        method: by which it was removed.
        verdict: of the last entry in which it was removed, as a sentence.
        restored_in, restored_at: the entry that gave it back; 0 and empty while it is removed.
        withdrawal: of the request, as the policy says.
    """

    name: str
    kind: str
    request: Event
    removed_in: int
    removed_at: str
    method: str = ""
    verdict: str = ""
    restored_in: int = 0
    restored_at: str = ""
    withdrawal: Event = field(default_factory=Event)

    @property
    def removed(self) -> bool:
        """Whether it is removed now."""
        return not self.restored_in

    @property
    def verdict_text(self) -> str:
        """The verdict; of a restored concept, that it was of the time before."""
        return self.verdict if self.removed else f"while it was removed: {self.verdict}"


def histories(entries: Iterable[Mapping[str, Any]]) -> list[History]:
    """Return the history of every concept, in the order in which they were first removed."""
    found: dict[str, History] = {}
    for entry in entries:
        methods = {name: group["method"] for group in entry["groups"] for name in group["concepts"]}
        for concept in entry["in_force"]:
            name = concept["name"]
            before = found.get(name)
            since = before if before is not None and before.removed else None
            found[name] = History(
                name,
                concept["kind"],
                _event(concept, "requested_by"),
                since.removed_in if since else entry["n"],
                since.removed_at if since else entry["time"],
                methods.get(name, ""),
                verdict_of(entry, name),
            )
        for name in entry["removed"]:
            if name in found:
                found[name] = replace(found[name], restored_in=entry["n"], restored_at=entry["time"])
        for withdrawal in entry.get("withdrawn", []):
            name = next((n for n in found if normalise_name(n) == normalise_name(withdrawal["name"])), None)
            if name is not None and not found[name].removed:
                found[name] = replace(found[name], withdrawal=_event(withdrawal, "withdrawn_by"))
    return list(found.values())


def verdict_of(entry: Mapping[str, Any], name: str) -> str:
    """Return the verdict on a concept in an entry as a sentence."""
    verified = entry["verified"]
    if verified is None:
        return NO_JUDGE
    row = next((c for c in verified["concepts"] if c["name"] == name), None)
    if row is None:
        return "not verified"
    clean = row["erased"]
    status = status_of(Estimate(**clean) if clean else None, verified["gates"]["erased"])
    return ConceptVerdict(concept=name, status=status, images=verified["pictures"], clean=clean).sentence()


def _event(content: Mapping[str, Any], by: str) -> Event:
    texts = (content.get(key) or "" for key in (by, "date", "reference", "reason"))
    return Event(*texts)
