"""What every verb that makes an edit does with it: save it, show it, write the run folder, say what came out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from excise.edits.edit import Edit


def finish(
    verb: str,
    family: Any,
    made: Edit,
    model: str,
    out: Path,
    timings: Mapping[str, float],
    *,
    preserve: Sequence[str] = (),
    preview: bool | None = None,
    drawn: Mapping[str, Any] | None = None,
    earlier: Sequence[str] = (),
    loaded: str = "",
    as_json: bool = False,
) -> None:
    """Write edit, pictures, report and `run.json` to `out`, and print the result.

    Args:
        preview: draw a few pictures before and after; None: on the built-in models.
        drawn: what a trained method drew to decide by.
        earlier: edit files that are in force below the new one.
        loaded: how the model was loaded, as further options of the commands that are printed.
    """
    from excise.cli import show
    from excise.concepts.concept import CHECKS, listed
    from excise.families.built_in import is_built_in
    from excise.protocols.canvas import canvas_mini
    from excise.report.run_page import erase_page
    from excise.support.runs import EDIT_NAME, write_images, write_run

    path = made.save(out / EDIT_NAME)
    if preview if preview is not None else is_built_in(family):
        with show.progress("drawing a preview") as advance:
            pairs = erase_page(family, made, model, out, preserve, advance, drawn, loaded)
        write_images(
            out,
            [f"{i:02d}-{when}" for i in range(len(pairs)) for when in ("before", "after")],
            [image for p in pairs for image in (p.before, p.after)],
        )
    else:
        erase_page(family, made, model, out, preserve, None, drawn, loaded)
    result = erase_result(made, path, timings)
    write_run(out, verb, {**result, "record": made.record.model_dump(mode="json")})
    if as_json:
        show.print_json(result)
        return
    names = [c.name for c in made.record.concepts]
    show.say(
        f"{listed(names)} erased from {model} with {made.record.method} in {sum(timings.values()):.1f} s: "
        f"{path} ({path.stat().st_size / 1024:.0f} kB)"
    )
    show.say(f"see it:   {out / 'report.html'}")
    edits = " ".join(f"--edit {shlex.quote(str(e))}" for e in [*earlier, path])
    start = f"--model {shlex.quote(model)}{loaded} {edits}"
    if is_built_in(family) and canvas_mini().knows(names[0]):
        asked = f"--concept {shlex.quote(names[0])} --out {_beside(out, 'evaluation')}"
        show.say(f"verify:   excise evaluate {start} {asked}")
    else:  # no judge that ships with the package knows the name
        prompt = CHECKS[made.record.concepts[0].kind][0].replace("{}", names[0])
        show.say(f"look:     excise generate {start} --prompt {shlex.quote(prompt)} --out {_beside(out, 'pictures')}")


def _beside(out: Path, what: str) -> str:
    return shlex.quote(f"{out}-{what}")


def erase_result(edit: Edit, path: Path, timings: Mapping[str, float]) -> dict[str, Any]:
    """The JSON shape of `erase --json`."""
    from excise.edits.deltas import TextMap, total_bytes

    kinds = {type(d).__name__ for d in edit.modules.values()} | ({TextMap.__name__} if edit.text_maps else set())
    seconds = {k: round(v, 3) for k, v in timings.items()}
    return {
        "edit": str(path),
        "method": edit.record.method,
        "concepts": [c.name for c in edit.record.concepts],
        "seconds": {**seconds, "total": round(sum(timings.values()), 3)},
        "delta": {
            "kinds": sorted(kinds),
            "modules": len(edit.paths),
            "bytes": total_bytes(t.float() for t in edit.tensors().values()),
        },
    }
