"""excise protocols: list the evaluation protocols, or show one."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from excise.cli import options as o


def protocols(
    name: Annotated[Optional[str], typer.Argument(help="The protocol to show; without it, all are listed.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the protocols, or show one: prompts by group, sampler, judges, targets and hash."""
    from excise.cli import show
    from excise.protocols import FOR_A_REQUEST, PROTOCOLS, summary

    if name is None:
        records = {**PROTOCOLS.records(), **FOR_A_REQUEST}
        if as_json:
            show.print_json([{"name": n, "title": r.title, "paper": r.paper} for n, r in records.items()])
        else:
            show.table([(n, r.title, r.paper) for n, r in records.items()], ("protocol", "", "paper"))
        return
    if name in FOR_A_REQUEST:
        show.say(f"{name}: {FOR_A_REQUEST[name].title}. It is made for each request: excise evaluate --protocol {name}")
        return
    plan = PROTOCOLS.load(name)()
    labels = {attribute: list(values) for attribute, values in plan.labels.items()}
    facts = {**summary(plan), "hash": plan.hash, "labels": labels, "notes": dict(plan.notes)}
    if as_json:
        show.print_json(facts)
        return
    rows = [(key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in facts.items()]
    show.table([(key, text if len(text) < 300 else text[:297] + "...") for key, text in rows if text], ("", name))
