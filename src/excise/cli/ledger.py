"""excise ledger: show what was removed from a model, when, at whose request, and how it was verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from excise.cli import options as o


def ledger(
    folder: Annotated[Path, typer.Argument(help="The folder of excise apply.")],
    concept: Annotated[
        Optional[str], typer.Option("--concept", "-c", help="Show only the entries on this concept.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Check that a ledger is intact, and show its entries. Exit status 2: it was truncated or edited.

    Example: excise ledger runs/policy --concept cat
    """
    from excise.cli import show
    from excise.concepts.concept import normalise_name
    from excise.policy.ledger import LedgerError, read

    entries = read(folder)
    if not entries:
        raise LedgerError(f"{folder} holds no ledger; excise apply writes one into its --out.")
    if concept is not None:
        entries = [
            e
            for e in entries
            if normalise_name(concept) in {normalise_name(n) for n in (*e["added"], *e["removed"], *_names(e))}
        ]
        if not entries:
            raise LedgerError(f"the ledger of {folder} has no entry on '{concept}'.")
    if as_json:
        show.print_json(entries)
        return
    models = dict.fromkeys(f"{e['model']['name']} (weights {e['model']['weights'][:12]})" for e in entries)
    show.say("\n".join(models))
    header = ("", "time (UTC)", "removed", "added", "restored", "verified", "edit")
    show.table([_row(e, concept) for e in entries], header)


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
