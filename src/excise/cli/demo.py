"""excise demo: erase two concepts from the built-in model, and report the result."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o
from excise.cli.keeping import Asked, ForceOption, finished

if TYPE_CHECKING:
    from excise.edits.edit import Edit
    from excise.evaluation.result import Evaluated
    from excise.families.base import Family
    from excise.report.html import Section

MODEL = "canvas-sd"
PROTOCOL = "canvas-mini"
RESULT = ("seconds", "untouched", "erased")
FIRST_STYLES = ("plain", "sketch", "neon", "popart")


def demo(
    out: Annotated[
        Path, typer.Option(help="Run folder to write: run.json, report.html, and a folder for each concept.")
    ] = Path("runs/demo"),
    object_: Annotated[str, typer.Option("--object", help="The Canvas object to erase.")] = "cat",
    style: Annotated[str, typer.Option(help="The Canvas style to erase.")] = "watercolor",
    method: Annotated[str, typer.Option(help="The method; excise methods lists them.")] = "speed",
    force: ForceOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Erase one object and one style from the built-in model, verify both, and write a report. Needs no network."""
    from excise.errors import unknown
    from excise.methods.fitting import check_fits_model
    from excise.protocols import PROTOCOLS
    from excise.support.runs import run_folder

    check_fits_model(method, MODEL)
    labels = PROTOCOLS.load(PROTOCOL)().labels
    for attribute, name in (("object", object_), ("style", style)):  # checked before it names a folder
        if name not in labels[attribute]:
            raise unknown(f"Canvas {attribute}", name, labels[attribute])
    request = Asked("demo", {"object": object_, "style": style, "method": method}, {"excise": version("excise")})
    earlier = finished(out, request, force=force, writes=["report.html"])
    if earlier is not None:
        _show({name: earlier[name] for name in RESULT}, out, as_json)
        return
    with run_folder(out):
        document = _demonstrate(object_, style, method, out, request, as_json=as_json)
    _show(document, out, as_json)


def _demonstrate(object_: str, style: str, method: str, out: Path, request: Asked, *, as_json: bool) -> dict[str, Any]:
    """Erase, measure and write the run folder; return the document of `--json`."""
    from excise.cli import show
    from excise.erasing.erase import erase
    from excise.report.run_page import write_page
    from excise.support.runs import write_run

    began = time.perf_counter()
    family = o.Source().load(MODEL)
    edits = {concept: erase(family, [concept], method=method, model_name=MODEL) for concept in (object_, style)}
    if not as_json:
        look = _first_look(family, edits[object_], object_, out)
        show.say(f"first look: {look.resolve()} ({time.perf_counter() - began:.0f} s); measuring both edits now")
    before = _untouched(family, out)
    results = {concept: _measure(family, concept, edit, before, out) for concept, edit in edits.items()}
    last = list(results.values())[-1][0]
    seconds = round(time.perf_counter() - began, 1)
    document = {
        "seconds": seconds,
        "untouched": before.result.metrics,
        "erased": {concept: summary for concept, (_, _, summary) in results.items()},
    }
    protocol = {"protocol": last.result.protocol, "hash": last.result.hash}
    write_run(out, "demo", {"model": MODEL, "method": method, **protocol, **document, **request.entries()})
    lead = (
        f"One object ({object_}) and one style ({style}) were removed from {MODEL} with {method}, each by a small edit "
        f"file, and every object was drawn in every style before and after. {seconds:.0f} seconds in all."
    )
    sections = [section for _, section, _ in results.values()]
    write_page("What excise removed", lead, sections, last.result, out / "report.html")
    return document


def _first_look(family: Family, edit: Edit, concept: str, out: Path) -> Path:
    """Draw the concept and other objects in a few styles with and without the edit, as one picture."""
    from excise.canvas import world
    from excise.report.contact_sheet import contact_sheet
    from excise.support.files import write_png

    other = next(name for name in world.OBJECTS if name != concept)
    prompts = [world.grid_prompt(o, s) for o in (concept, other) for s in FIRST_STYLES]

    def drawn() -> list[Any]:
        return family.sample(prompts, list(range(len(prompts))), steps=12, guidance=4.0, batch=len(prompts))

    before = drawn()
    with edit.apply(family):
        after = drawn()
    half = len(FIRST_STYLES)
    rows = {
        f"{concept}\nbefore": before[:half],
        f"{concept}\nafter": after[:half],
        f"{other}\nbefore": before[half:],
        f"{other}\nafter": after[half:],
    }
    write_png(out / "first-look.png", contact_sheet(rows))
    return out / "first-look.png"


def _untouched(family: Family, out: Path) -> Evaluated:
    """Evaluate the model as it is, and write its images."""
    from excise.cli import show
    from excise.evaluation.evaluate import evaluate
    from excise.support.runs import write_images

    with show.progress("the model as it is") as advance:
        before = evaluate(family, protocol=PROTOCOL, groups=["grid"], model_name=MODEL, progress=advance)
    write_images(out, [f"{i:04d}" for i in range(len(before.images))], before.images)
    return before


def _measure(
    family: Family, concept: str, edit: Edit, before: Evaluated, out: Path
) -> tuple[Evaluated, Section, dict[str, Any]]:
    """Evaluate one edit; return the evaluation, its section of the report, and its part of the JSON document."""
    from excise.cli import show
    from excise.evaluation.evaluate import evaluate
    from excise.evaluation.result import beside_earlier
    from excise.report.attack_answers import untested
    from excise.report.run_page import attack_command, commands, evaluation_section
    from excise.support.runs import EDIT_NAME, write_images

    path = edit.save(out / concept / EDIT_NAME)
    with show.progress(f"without {concept}") as advance:
        after = evaluate(family, [concept], protocol=PROTOCOL, edits=[edit], model_name=MODEL, progress=advance)
    write_images(out / concept, [f"{i:04d}" for i in range(len(after.images))], after.images)
    attack = untested(attack_command(MODEL, str(path), concept, f"{out / concept}-attacked"))
    beside = beside_earlier(after, before)
    section = evaluation_section(f"Without {concept}", before, beside, edit, commands(MODEL, path, concept), attack)
    return after, section, {"edit": str(path), "metrics": after.result.metrics, "became": after.result.became}


def _show(document: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print the result."""
    from excise.cli import show

    report = out / "report.html"
    if as_json:
        show.print_json({"report": str(report), **document})
        return
    untouched = document["untouched"]
    accuracies = " / ".join(f"{untouched[f'{a}_accuracy']['value']:.3f}" for a in ("object", "style"))
    rows = [("untouched", "", "", "", accuracies)]
    for concept, result in document["erased"].items():
        ua, ira, cra = (f"{result['metrics'][key]['value']:.3f}" for key in ("ua", "ira", "cra"))
        rows.append((f"without {concept}", ua, ira, cra, ""))
    show.table(rows, ("", "UA", "IRA", "CRA", "object / style accuracy"))
    show.say(f"{document['seconds']:.0f} s. The report: {report.resolve()}")
