"""excise ledger: show what was removed from a model, when, at whose request, and how it was verified."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.policy.history import History


def ledger(
    folder: Annotated[Path, typer.Argument(help="The folder of excise apply.")],
    concept: Annotated[
        Optional[str], typer.Option("--concept", "-c", help="Show only this concept, and the entries on it.")
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(help="Also write a page for an auditor: first whether the ledger is intact, then every concept."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Check that a ledger is intact, and show who requested each removal, how it was verified and who withdrew it.

    Exit status 2: the ledger was truncated or edited, or the edit in the folder is not the recorded one.

    Example: excise ledger runs/policy --out audit.html
    """
    from excise.cli import show
    from excise.policy.history import histories
    from excise.policy.ledger import LedgerError, examine
    from excise.report.ledger_page import LedgerPage, write_ledger_page

    examination = examine(folder)
    entries = examination.entries
    if not entries and not examination.fault:
        raise LedgerError(f"{folder} holds no ledger; excise apply writes one into its --out.")
    fault, remark = _edit_in_force(folder, entries, examination.fault)
    page = LedgerPage(entries, histories(entries), fault, remark, f"excise ledger {shlex.quote(str(folder))}")
    if out is not None:
        write_ledger_page(page, out)
    if fault:
        raise LedgerError(fault)
    entries = _on(entries, concept, folder)
    if as_json:
        show.print_json(entries)
        return
    show.say(page.verdict)
    models = dict.fromkeys(f"{e['model']['name']} (weights {e['model']['weights'][:12]})" for e in entries)
    show.say("\n".join(models))
    show.table(*_concepts([c for c in page.concepts if concept is None or _same(c.name, concept)]))
    show.say("")
    header = ("", "time (UTC)", "removed", "added", "restored", "verified", "edit")
    show.table([_row(e, concept) for e in entries], header)
    if out is not None:
        show.say(f"page: {out}")


def _edit_in_force(folder: Path, entries: list[dict[str, Any]], fault: str) -> tuple[str, str]:
    """Return the fault, that of the edit where the ledger has none, and a remark if the edit is not there."""
    from excise.policy.in_force import edit_fault
    from excise.support.runs import EDIT_NAME

    problem = edit_fault(folder, entries[-1]) if entries and not fault else ""
    is_there = (folder / EDIT_NAME).exists()
    return (problem, "") if problem and is_there else (fault, problem)


def _on(entries: list[dict[str, Any]], concept: str | None, folder: Path) -> list[dict[str, Any]]:
    """Return the entries on a concept; all without one.

    Raises:
        LedgerError: there are none.
    """
    from excise.concepts.concept import listed
    from excise.errors import closest
    from excise.policy.ledger import LedgerError

    if concept is None:
        return entries
    chosen = [e for e in entries if any(_same(concept, n) for n in (*e["added"], *e["removed"], *_names(e)))]
    if not chosen:
        names = sorted({n for e in entries for n in (*e["added"], *e["removed"], *_names(e))})
        near = closest(concept, names)
        meant = f" Did you mean '{near}'?" if near else ""
        raise LedgerError(f"the ledger of {folder} has no entry on '{concept}'.{meant} It has: {listed(names, 8)}.")
    return chosen


def _same(one: str, other: str) -> bool:
    from excise.concepts.concept import normalise_name

    return normalise_name(one) == normalise_name(other)


def _concepts(histories: list[History]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The rows and the header of the table of concepts, without columns in which nobody said anything."""
    header = ("concept", "status", "requested by", "verified", "withdrawn by")
    rows = [
        (
            c.name,
            f"removed {c.removed_at[:10]}" if c.removed else f"restored {c.restored_at[:10]}",
            c.request.text(),
            c.verdict_text,
            "" if c.removed else c.withdrawal.text() or "nobody is named",
        )
        for c in histories
    ]
    used = [i for i in range(len(header)) if i < 2 or any(row[i] for row in rows)]
    return [tuple(row[i] for i in used) for row in rows], tuple(header[i] for i in used)


def _names(entry: dict[str, Any]) -> list[str]:
    return [c["name"] for c in entry["in_force"]]


def _row(entry: dict[str, Any], concept: str | None) -> tuple[str, ...]:
    from excise.concepts.concept import listed

    return (
        str(entry["n"]),
        entry["time"][:16].replace("T", " "),  # to the minute, in UTC; --json has all of it
        str(len(entry["in_force"])),
        listed(entry["added"]) or "-",
        listed(entry["removed"]) or "-",
        _verified(entry["verified"], concept),
        (entry["edit"] or "none")[:8],
    )


def _verified(verified: dict[str, Any] | None, concept: str | None) -> str:
    """For one concept the share of clean images; for all, how many concepts pass and how much is retained."""
    from excise.concepts.concept import normalise_name
    from excise.evaluation.catalog import quantity

    if verified is None:
        return "no"
    if concept is None:
        passed = sum(c["passed"] for c in verified["concepts"])
        rest = verified["retained"]
        retained = f", retained {quantity(rest['value'], 'rate')}" if rest else ""
        return f"{passed} of {len(verified['concepts'])}{retained}"
    clean = next(
        (c["erased"] for c in verified["concepts"] if normalise_name(c["name"]) == normalise_name(concept)), None
    )
    return f"{quantity(clean['value'], 'rate')} of {clean['n']}" if clean else "-"
