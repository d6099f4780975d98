"""excise apply: a policy brought into force."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.policy.apply import Outcome


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
    from excise.policy.policy import read

    wanted, digest = read(policy)

    from excise.cli import show
    from excise.policy.apply import apply_policy
    from excise.report.policy_page import write_policy_page
    from excise.support.files import make_folder
    from excise.support.runs import locked

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
        if done.changed or not (out / "report.html").exists():
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
    from excise.support.runs import EDIT_NAME

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
    from excise.policy.messages import summary, verification_lines

    for line in (summary(done), *verification_lines(done.entry["verified"])):
        show.say(line)
    show.say(f"see it:   {out / 'report.html'}")
    show.say(f"ledger:   excise ledger {shlex.quote(str(out))}")
