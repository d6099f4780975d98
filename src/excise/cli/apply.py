"""excise apply: a policy brought into force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.applying import Outcome


@o.with_source
def apply(
    policy: Annotated[Path, typer.Argument(help="A YAML file: model, concepts with who asked and when, gates.")],
    out: Annotated[Path, typer.Option(help="Folder of the edit in force, its report and its ledger.")],
    cache: o.CacheOption = None,
    no_cache: o.NoCacheOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Remove from a model what a policy says, no more and no less; verify every concept; keep a ledger.

    Only what changed since the last time is made again. Exit status 1: a concept, or what is kept, failed its gate.

    Example: excise apply policy.yaml --out runs/policy
    """
    from excise.policy import read

    wanted, digest = read(policy)

    from excise.applying import apply_policy
    from excise.cli import show
    from excise.files import make_folder
    from excise.policy_report import write_policy_page
    from excise.runs import locked

    make_folder(out)
    with locked(out):
        family = source.load(wanted.model, wanted.revision)
        with show.stages() as say:
            done = apply_policy(
                family,
                wanted,
                digest,
                out,
                reread=lambda: read(policy)[1],
                cache=o.image_cache(cache, no_cache),
                say=say,
            )
        if done.changed:
            write_policy_page(wanted, done, out / "report.html")
    if as_json:
        show.print_json(result(done, out))
    else:
        _tell(done, out)
    verified = done.entry["verified"]
    if verified and not verified["passed"]:
        raise typer.Exit(1)


def result(done: Outcome, out: Path) -> dict[str, Any]:
    """The JSON shape of `apply --json`."""
    from excise.runs import EDIT_NAME

    return {
        "changed": done.changed,
        "edit": str(out / EDIT_NAME) if done.entry["edit"] else None,
        "made": done.made,
        "groups": done.groups,
        "report": str(out / "report.html"),
        "entry": done.entry,
    }


def _tell(done: Outcome, out: Path) -> None:
    from excise.cli import show
    from excise.concept import listed
    from excise.report.html import percent

    entry = done.entry
    if not done.changed:
        show.say(
            f"nothing changed: {len(entry['in_force'])} concepts are out, as the policy says (entry {entry['n']})."
        )
        return
    show.say(
        f"{len(entry['in_force'])} concepts out of {entry['model']['name']}: {len(entry['added'])} new "
        f"({listed(entry['added']) or 'none'}), {len(entry['removed'])} given back "
        f"({listed(entry['removed']) or 'none'}); {done.made} of {done.groups} edits made anew."
    )
    verified = entry["verified"]
    if verified is None:
        show.say("not verified: there is nothing to look with. Name a CLIP folder as `judge` in the policy.")
    else:
        failed = [c for c in verified["concepts"] if not c["passed"]]
        kept = verified["retained"]
        show.say(
            f"verified by {verified['judge']}: {len(verified['concepts']) - len(failed)} of "
            f"{len(verified['concepts'])} concepts pass"
            + (f"; of what is kept {percent(kept['value'])} is still right" if kept else "")
        )
        for concept in failed:
            seen = concept["erased"]
            how = f"{percent(seen['value'])} of {seen['n']} pictures" if seen else "the untouched model never shows it"
            show.say(f"gate failed: {concept['name']}: {how}")
    show.say(f"see it:   {out / 'report.html'}")
    show.say(f"ledger:   excise ledger {out}")
