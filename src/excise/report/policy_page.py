"""The page of an applied policy: the verdict on each concept, who requested it, what was restored, and images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from excise.evaluation.verdict import status_of
from excise.metrics.rates import Estimate
from excise.report.html import Banner, MetricRow, Page, Pair, Section, Table, write
from excise.support.counts import counted
from excise.support.selection import evenly

if TYPE_CHECKING:
    from excise.policy.apply import AppliedPolicy

MOST_PAIRS = 24
State = Literal["good", "warn", "bad", "open"]
STATES: dict[str, State] = {"verified": "good", "not proven": "warn", "not removed": "bad", "not verifiable": "open"}


def write_policy_page(applied: AppliedPolicy, path: Path) -> Path:
    """Write the page of a policy that was just applied."""
    entry, verification = applied.entry, applied.verification
    verdicts = verification.verdicts if verification else []
    requests = {request["name"]: _request(request) for request in entry["in_force"]}
    metrics = []
    if verification and verification.retained:
        meaning = "of the images of other names that were right before, the share still right"
        metrics.append(MetricRow("other names", meaning, None, verification.retained.as_dict()))
    section = Section(
        title="Concepts",
        summary="Each concept was asked for in prompts that no method used; only images in which the untouched model "
        "shows the concept count.",
        table=_table(entry),
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
        ("judge", entry["verified"]["judge"] if entry["verified"] else "none"),
        ("excise", entry["excise"]),
    ]
    lead = (
        f"Applied {entry['time']}: {len(entry['added'])} new, {len(entry['removed'])} restored; {applied.made} of "
        f"{counted(applied.groups, 'edit')} rebuilt."
    )
    return write(Page("The policy as applied", lead, [section], facts, banners(entry)), path)


def banners(entry: Mapping[str, Any]) -> list[Banner]:
    """The verdict on all concepts, and on the other names."""
    count, verified = len(entry["in_force"]), entry["verified"]
    concepts = counted(count, "concept")
    if not count:
        return [Banner("Nothing is removed: the policy names no concept.")]
    if verified is None:
        return [Banner(f"Edit written for {concepts}, not verified: there is no judge.")]
    passed = sum(c["passed"] for c in verified["concepts"])
    state: State = "good" if passed == count else "bad"
    lines = [
        Banner(f"{passed} of {concepts} verified as removed (gate {100 * verified['gates']['erased']:.0f} %).", state)
    ]
    retained = verified["retained"]
    if retained is not None:
        text = f"Other names: {round(retained['value'] * retained['n'])} of {round(retained['n'])} still right"
        gate = f"(at least {int(100 * retained['low'])} %, gate {100 * verified['gates']['retained']:.0f} %)."
        lines.append(Banner(f"{text} {gate}", "good" if verified["retained_passed"] else "bad"))
    elif not verified["retained_passed"]:
        lines.append(Banner("Other names: not verifiable, the judge sees none of them by the untouched model.", "warn"))
    return lines


def _table(entry: Mapping[str, Any]) -> Table:
    """One row a concept, restored ones included."""
    verified = entry["verified"] or {"concepts": [], "gates": {"erased": 0.0}}
    erased = {c["name"]: c["erased"] for c in verified["concepts"]}
    rows: list[tuple[str, list[str]]] = []
    for request in entry["in_force"]:
        state, status, clean, n = "open", "not verified", "", ""
        if request["name"] in erased:
            share = erased[request["name"]]
            estimate = Estimate(share["value"], share["low"], share["high"], round(share["n"])) if share else None
            status = status_of(estimate, verified["gates"]["erased"])
            state = STATES[status]
            clean = f"{100 * share['value']:.0f} % (at least {int(100 * share['low'])} %)" if share else ""
            n = str(round(share["n"])) if share else "0"
        who = [request["requested_by"] or "", request["date"] or "", request["reference"] or ""]
        rows.append((state, [request["name"], status, clean, n, *who]))
    rows += [("open", [name, "restored", "", "", "", "", ""]) for name in entry["removed"]]
    return Table(["concept", "status", "clean", "n", "requested by", "date", "reference"], rows)


def _request(request: Mapping[str, str | None]) -> str:
    """Who requested it, when, under which reference."""
    parts = (request["requested_by"], request["date"], request["reference"])
    return ", ".join(p for p in parts if p)
