"""The page of an applied policy: who requested which concept, what was verified, and images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import listed
from excise.report.html import MetricRow, Page, Pair, Section, write
from excise.support.selection import evenly

if TYPE_CHECKING:
    from excise.policy.apply import AppliedPolicy

MOST_PAIRS = 24


def write_policy_page(applied: AppliedPolicy, path: Path) -> Path:
    """Write the page of a policy that was just applied."""
    entry, verification = applied.entry, applied.verification
    verdicts = verification.verdicts if verification else []
    requests = {request["name"]: _request(request) for request in entry["in_force"]}
    metrics = [
        MetricRow(v.concept.name, requests[v.concept.name], None, v.erased.as_dict()) for v in verdicts if v.erased
    ]
    if verification and verification.retained:
        meaning = "of the images that were right before, the share still right"
        metrics.append(MetricRow("retained", meaning, None, verification.retained.as_dict()))
    section = Section(
        title=f"{len(requests)} concept{'' if len(requests) == 1 else 's'} removed",
        summary=f"{len(entry['added'])} new, {len(entry['removed'])} restored; {applied.made} of {applied.groups} "
        "edits rebuilt. Each concept was asked for in prompts that no method used; only images in which the untouched "
        "model shows the concept count.",
        targets=[
            Pair(v.concept.name, v.before, v.after, requests[v.concept.name]) for v in evenly(verdicts, MOST_PAIRS)
        ],
        metrics=metrics,
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
    return write(Page("The policy as applied", f"Applied {entry['time']}.", [section], facts), path)


def _verified(verified: dict[str, Any] | None) -> str:
    """The judge, and whether the gates passed."""
    if verified is None:
        return "no: there is no judge"
    failed = [c["name"] for c in verified["concepts"] if not c["passed"]]
    failed += [] if verified["retained_passed"] else ["retained names"]
    return f"by {verified['judge']}; " + (f"gates failed: {listed(failed, 12)}" if failed else "all gates passed")


def _request(request: dict[str, str | None]) -> str:
    """Who requested it, when, under which reference."""
    parts = (request["requested_by"], request["date"], request["reference"])
    return ", ".join(p for p in parts if p)
