"""What an applied policy shows of itself in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.policy.verify import Verification
from excise.support.counts import counted
from excise.support.display import Card, Picture, some


def policy_card(entry: Mapping[str, Any], changed: bool, verification: Verification | None) -> Card:
    """Describe a ledger entry: what is in force, for whom, and how it was verified."""
    verdicts = {c["name"]: c for c in (entry["verified"] or {}).get("concepts", ())}
    passed = sum(bool(verdict["passed"]) for verdict in verdicts.values())
    if entry["verified"] is None:
        verified = "not verified: there is no judge"
    else:
        verified = f"{passed} of {counted(len(verdicts), 'concept')} pass, by {entry['verified']['judge']}"
    names = [concept["name"] for concept in entry["in_force"]]
    facts = [
        ("in force", some(names)),
        ("new", some(entry["added"]) if changed else "nothing changed"),
        ("restored", some(entry["removed"])),
        ("verified", verified),
        ("model", str(entry["model"]["name"])),
    ]
    rows = [
        (c["name"], c["kind"], c["requested_by"], c["reference"], c["date"] or "", _verdict(verdicts.get(c["name"])))
        for c in entry["in_force"]
    ]
    pictures = []
    for v in verification.verdicts if verification else ():
        pictures.append((v.concept.name, [Picture(v.before, "untouched"), Picture(v.after, "edited")]))
    head = ("concept", "kind", "requested by", "reference", "date", "verified")
    return Card(f"Policy: {counted(len(names), 'concept')} removed", facts, head, rows, pictures)


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    """How many pictures of a concept are clean, and whether that passes the gate."""
    if verdict is None:
        return "not verified"
    share = verdict["erased"]
    if share is None:
        return "not verifiable"
    clean = f"{round(share['value'] * share['n'])} of {round(share['n'])} clean (at least {int(100 * share['low'])} %)"
    return f"{clean}, {'passed' if verdict['passed'] else 'failed'}"
