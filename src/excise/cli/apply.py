"""excise apply: bring a model in line with a policy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o
from excise.cli.keeping import read_run
from excise.errors import OutputError

if TYPE_CHECKING:
    from excise.policy.apply import AppliedPolicy
    from excise.policy.policy import Policy


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed and given back, and write nothing.")
    ] = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def apply(options: ApplyOptions) -> None:
    """Remove from a model exactly the concepts that a policy lists, verify each one, and write a ledger.

    Only what changed since the last time is rebuilt. Exit status 1: a concept, or the retained names, failed a gate.

    Example: excise apply policy.yaml --out runs/policy
    """
    from excise.errors import GatesFailed
    from excise.policy.policy import read

    policy, digest = read(options.policy)
    _check_names(policy)
    if options.dry_run:
        _preview(options, policy)
        return

    from excise.cli import show
    from excise.cli.evidence import keep_policy
    from excise.policy.apply import apply_policy
    from excise.report.policy_page import write_policy_page
    from excise.support.runs import EDIT_NAME, run_folder, write_run

    out = options.out
    options.source.check(policy.model)
    run = read_run(out)
    if run is not None and run.get("verb") != "apply":
        raise OutputError(
            f"{out} holds a finished run of excise {run.get('verb', '(unknown)')}, whose files a policy would replace; "
            "choose another --out."
        )
    with run_folder(out):
        family = options.source.load(policy.model, policy.revision, whole=_draws(policy))
        with show.stages() as say:
            applied = apply_policy(
                family,
                policy,
                digest,
                out,
                reread=lambda: read(options.policy)[1],
                cache=o.image_cache(options.cache, options.no_cache),
                say=say,
                tell=show.say,
            )
        if applied.changed:
            keep_policy(out / EDIT_NAME, applied.entry)
            made = result(applied, out)
            write_run(out, "apply", {**made, "load_options": options.source.given().strip()})
        if applied.changed or not (out / "report.html").exists():
            write_policy_page(applied, out / "report.html")
    if options.as_json:
        show.print_json(result(applied, out))
    else:
        _print(applied, out)
    verified = applied.entry["verified"]
    if verified and not verified["passed"]:
        raise GatesFailed


def _check_names(policy: Policy) -> None:
    """Refuse or warn of names that are probably not meant as they are given, before any work.

    Raises:
        ConceptError: a built-in model does not know a name that is one slip away from one that it knows.
    """
    from excise.concepts.known_names import warn_of_names
    from excise.families.built_in import names_built_in

    names = [request.name for request in policy.concepts]
    if names_built_in(policy.model):
        o.check_no_slips(policy.model, names, "name:")
        o.warn_outside_canvas(policy.model, names)
        return
    for request in policy.concepts:
        warn_of_names([request.concept()], request.kind, "- name:")


def _preview(options: ApplyOptions, policy: Policy) -> None:
    """Print what applying the policy would change."""
    from excise.cli import show
    from excise.policy import ledger
    from excise.policy.apply import preview

    entries = ledger.read(options.out)
    planned = preview(policy, entries[-1] if entries else None)
    if options.as_json:
        show.print_json(planned)
        return
    show.table([(name, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for name, v in planned.items()],
               ("", f"{options.policy}, not applied"))  # fmt: skip


def _draws(policy: Policy) -> bool:
    """Whether applying a policy draws pictures: to verify them by a judge, or for a method that is trained."""
    from excise.families.built_in import names_canvas
    from excise.methods import reads_text_alone

    trained = not all(reads_text_alone(choice.name) for choice in policy.methods.values())
    return trained or policy.judge is not None or names_canvas(policy.model)


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
    from excise.cli.making import free_folder
    from excise.policy.messages import summary, verification_lines

    for line in (summary(applied), *verification_lines(applied.entry["verified"])):
        show.say(line)
    show.say(f"report:   {out / 'report.html'}")
    show.say(f"audit:    excise ledger {shlex.quote(str(out))} --out {shlex.quote(str(out / 'audit.html'))}")
    if _ships(applied.entry):
        show.say(f"ship:     excise export {shlex.quote(str(out))} --out {free_folder('shipped')}")


def _ships(entry: dict[str, Any]) -> bool:
    """Whether the edit in force is verified and can be exported."""
    from excise.methods import METHODS

    methods = {group["method"] for group in entry["groups"]}
    verified = entry["verified"] is not None and entry["verified"]["passed"]
    return bool(methods) and verified and all(METHODS.record(m).shape != "inference-time" for m in methods)
