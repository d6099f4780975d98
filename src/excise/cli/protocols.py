"""excise protocols: list the evaluation protocols, or show one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.protocols import Protocol


def protocols(
    name: Annotated[Optional[str], typer.Argument(help="The protocol to show; without it, all are listed.")] = None,
    concept: Annotated[
        Optional[list[str]],
        typer.Option("--concept", "-c", help="A concept that counts as erased, for --prompts; repeatable."),
    ] = None,
    prompts: Annotated[
        Optional[Path],
        typer.Option(help="CSV file to write its prompts and seeds to, for excise generate or any other program."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the protocols, or show one: prompts by group, sampler, judges, targets and hash.

    Example: excise protocols canvas-mini --concept cat --prompts prompts.csv
    """
    from excise.cli import show
    from excise.errors import SettingError
    from excise.protocols import FOR_A_REQUEST, PROTOCOLS, summary

    if prompts is None and concept:
        raise SettingError("--concept chooses among the prompts that --prompts FILE writes; give that as well.")
    if prompts is not None and (name is None or name in FOR_A_REQUEST or as_json):
        raise SettingError(
            "--prompts writes the prompts of one protocol that does not depend on a request, and nothing else; name "
            "one, without --json."
        )
    if name is None:
        records = {**PROTOCOLS.records(), **FOR_A_REQUEST}
        if as_json:
            show.print_json([{"name": n, "title": r.title, "paper": r.paper} for n, r in records.items()])
        else:
            show.table([(n, r.title, r.paper) for n, r in records.items()], ("protocol", "", "paper"))
        return
    if name in FOR_A_REQUEST:
        record = FOR_A_REQUEST[name]
        if as_json:
            show.print_json({"name": name, "title": record.title, "paper": record.paper, "for_a_request": True})
        else:
            show.say(f"{name}: {record.title}. It is made for each request: excise evaluate --protocol {name}")
        return
    plan = PROTOCOLS.load(name)()
    if prompts is not None:
        _write_prompts(plan, concept or [], prompts)
        return
    labels = {attribute: list(values) for attribute, values in plan.labels.items()}
    facts = {**summary(plan), "hash": plan.hash, "labels": labels, "notes": dict(plan.notes)}
    if as_json:
        show.print_json(facts)
        return
    rows = [(key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in facts.items()]
    show.table([(key, text if len(text) < 300 else text[:297] + "...") for key, text in rows if text], ("", name))


def _write_prompts(plan: Protocol, concepts: list[str], file: Path) -> None:
    """Write what a protocol draws as a file of prompts."""
    from excise.cli import show
    from excise.protocols.prompt_file import write_prompts
    from excise.support.counts import counted
    from excise.support.files import write_new_text

    items = plan.select([plan.target_of(c) for c in concepts])
    rows = [{"prompt": i.prompt, "seed": plan.seed(i), "group": i.group, **i.asked} for i in items]
    write_new_text(file, write_prompts([{key: row.get(key, "") for r in rows for key in r} for row in rows]))
    sampler = f"{counted(plan.steps, 'step')}, guidance {plan.guidance:g}, {plan.sampler} scheduler"
    show.say(f"{counted(len(rows), 'prompt')} in {file}; draw them with {sampler}")
