"""excise apply: bring a model in line with a policy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.policy.apply import AppliedPolicy

MOST_LINES = 8  # printed of failed gates


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """The options of `excise apply`."""

    policy: Annotated[
        Path,
        typer.Argument(help="A YAML file with the model, the concepts, who requested each one and when, and gates."),
    ]
    out: Annotated[Path, typer.Option(help="Folder of the current edit, its report and its ledger.")]
    cache: o.CacheOption = None
    no_cache: o.NoCacheOption = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def apply(options: ApplyOptions) -> None:
    """Remove from a model exactly the concepts that a policy lists, verify each one, and write a ledger.

    Only what changed since the last time is rebuilt. Exit status 1: a concept, or the retained names, failed a gate.

    Example: excise apply policy.yaml --out runs/policy
    """
    from excise.policy.policy import read

    policy, digest = read(options.policy)

    from excise.cli import show
    from excise.policy.apply import apply_policy
    from excise.report.policy_page import write_policy_page
    from excise.support.files import make_folder
    from excise.support.runs import locked

    out = options.out
    make_folder(out)
    with locked(out):
        family = options.source.load(policy.model, policy.revision)
        with show.stages() as say:
            applied = apply_policy(
                family,
                policy,
                digest,
                out,
                reread=lambda: read(options.policy)[1],
                cache=o.image_cache(options.cache, options.no_cache),
                say=say,
            )
        if applied.changed or not (out / "report.html").exists():
            write_policy_page(applied, out / "report.html")
    if options.as_json:
        show.print_json(result(applied, out))
    else:
        _print(applied, out)
    verified = applied.entry["verified"]
    if verified and not verified["passed"]:
        raise typer.Exit(1)


def result(applied: AppliedPolicy, out: Path) -> dict[str, Any]:
    """The JSON document of `excise apply`."""
    from excise.support.runs import EDIT_NAME

    return {
        "changed": applied.changed,
        "edit": str(out / EDIT_NAME) if applied.entry["edit"] else None,
        "made": applied.made,
        "groups": applied.groups,
        "report": str(out / "report.html"),
        "entry": applied.entry,
    }


def _print(applied: AppliedPolicy, out: Path) -> None:
    from excise.cli import show
    from excise.concepts.concept import listed

    entry = applied.entry
    count, added, removed = len(entry["in_force"]), entry["added"], entry["removed"]
    concepts = f"{count} concept{'' if count == 1 else 's'} removed"
    if applied.changed:
        changes = [f"{len(added)} new" + (f": {listed(added)}" if added else "")]
        changes.append(f"{len(removed)} restored" + (f": {listed(removed)}" if removed else ""))
        show.say(
            f"{entry['model']['name']}: {concepts} ({'; '.join(changes)}); {applied.made} of {applied.groups} edits "
            "rebuilt"
        )
    else:
        show.say(f"nothing changed: {concepts}, as the policy says (entry {entry['n']})")
    for line in verdict(entry["verified"]):
        show.say(line)
    show.say(f"report:   {out / 'report.html'}")
    show.say(f"ledger:   excise ledger {shlex.quote(str(out))}")


def verdict(verified: dict[str, Any] | None) -> list[str]:
    """Lines on how many concepts pass, on the retained names, and on each gate that failed (eight concepts at most).

    Args:
        verified: the verification in the entry of the ledger; None if there was none.
    """
    from excise.evaluation.catalog import quantity

    if verified is None:
        return ["not verified: there is no judge. Give the folder of a CLIP model as `judge` in the policy."]
    concepts, retained, gates = verified["concepts"], verified["retained"], verified["gates"]
    failed = [c for c in concepts if not c["passed"]]
    first = f"verified by {verified['judge']}: {len(concepts) - len(failed)} of {len(concepts)} concepts pass"
    if retained:
        first += f"; retained names: {quantity(retained['value'], 'rate')} of the images are still right"
    lines = [first]
    for concept in failed[:MOST_LINES]:
        gate = _gate(concept["erased"], gates["erased"], "clean", "Set `pictures` higher in the policy.")
        lines.append(f"gate failed: {concept['name']}: {gate or _not_drawn(verified['pictures'])}")
    if len(failed) > MOST_LINES:
        lines.append(f"gate failed: {len(failed) - MOST_LINES} more concepts; the report names them all")
    if not verified["retained_passed"]:
        gate = _gate(retained, gates["retained"], "still right", "Add names to `preserve`.")
        lines.append(f"gate failed: retained names: {gate or 'cannot be verified, the untouched model draws none'}")
    return lines


def _gate(rate: dict[str, float] | None, bound: float, what: str, advice: str) -> str | None:
    """Why a rate failed its gate; with the advice where the rate is high enough, but its images prove too little."""
    from excise.evaluation.catalog import quantity

    if rate is None:
        return None
    n, gate = rate["n"], quantity(bound, "rate")
    counted = f"{round(rate['value'] * n)} of {n:.0f} images {what}"
    if rate["value"] < bound:
        return f"{counted} (gate {gate})"
    return f"{counted}, but {n:.0f} images prove only {quantity(rate['low'], 'rate')} or more (gate {gate}). {advice}"


def _not_drawn(pictures: int) -> str:
    return f"cannot be verified, the judge sees it in none of {pictures} images of the untouched model"
