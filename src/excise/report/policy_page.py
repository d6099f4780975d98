"""The page of a policy: who asked for what, what is gone, with pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import listed
from excise.report.html import Figure, Page, Pair, Section, write
from excise.support.selection import evenly

if TYPE_CHECKING:
    from excise.policy.apply import Outcome
    from excise.policy.policy import Policy

MOST_PAIRS = 24


def write_policy_page(policy: Policy, done: Outcome, path: Path) -> Path:
    """Write the page of a policy that was just applied."""
    entry, seen = done.entry, done.verification
    verdicts = seen.verdicts if seen else []
    asked = {request["name"]: request for request in entry["in_force"]}
    figures = [
        Figure(v.concept.name, _who(asked[v.concept.name]), None, v.erased.as_dict()) for v in verdicts if v.erased
    ]
    if seen and seen.retained:
        figures.append(Figure("kept", "of what was right before, still right", None, seen.retained.as_dict()))
    section = Section(
        title=f"{len(asked)} concepts removed",
        summary=f"{len(entry['added'])} new, {len(entry['removed'])} given back; {done.made} of {done.groups} edits "
        "made anew. Each concept is asked for in prompts that no method saw; only pictures in which the untouched "
        "model shows it count.",
        targets=[
            Pair(v.concept.name, v.before, v.after, _who(asked[v.concept.name])) for v in evenly(verdicts, MOST_PAIRS)
        ],
        figures=figures,
        record={"entry": entry},
        commands=[("read the ledger", f"excise ledger {shlex.quote(str(path.parent))}")],
    )
    facts = [
        ("model", f"{entry['model']['name']}, weights {entry['model']['weights'][:12]}"),
        ("edit", entry["edit"] or "none"),
        ("ledger", f"entry {entry['n']}, hash {entry['hash'][:12]}"),
        ("verified", _verified(entry["verified"])),
        ("excise", entry["excise"]),
    ]
    return write(Page("A policy in force", f"Applied {entry['time']}.", [section], facts), path)


def _verified(verified: dict[str, Any] | None) -> str:
    """By whom, and whether the gates passed."""
    if verified is None:
        return "no: nothing to look with"
    failed = [c["name"] for c in verified["concepts"] if not c["passed"]]
    failed += [] if verified["retained_passed"] else ["what is kept"]
    return f"by {verified['judge']}; " + (f"gates failed: {listed(failed, 12)}" if failed else "all gates passed")


def _who(request: dict[str, str | None]) -> str:
    """Who asked for it, when, under which reference."""
    parts = (request["requested_by"], request["date"], request["reference"])
    return ", ".join(p for p in parts if p)
