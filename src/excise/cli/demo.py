"""excise demo: the main job on the built-in model, from erasing to the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o

MODEL = "canvas-sd"
PROTOCOL = "canvas-mini"


def demo(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/demo"),
    object_: Annotated[str, typer.Option("--object", help="The Canvas object to erase.")] = "cat",
    style: Annotated[str, typer.Option(help="The Canvas style to erase.")] = "watercolor",
    method: Annotated[str, typer.Option(help="See: excise methods")] = "speed",
    as_json: o.JsonOption = False,
) -> None:
    """Erase one object and one style from the built-in model, verify both, and write a report. Needs no network."""
    from excise.cli import show
    from excise.erasing.erase import erase
    from excise.evaluation.evaluate import evaluate
    from excise.methods.fitting import check_fits_model
    from excise.protocols import PROTOCOLS
    from excise.report.run_page import commands, evaluation_section, write_page
    from excise.support.files import make_folder
    from excise.support.runs import EDIT_NAME, write_images, write_run

    check_fits_model(method, MODEL)
    for name in (object_, style):  # before it names a folder
        PROTOCOLS.load(PROTOCOL)().target_of(name)
    make_folder(out)
    began = time.perf_counter()
    family = o.Source().load(MODEL)
    with show.progress("the model as it is") as advance:
        before = evaluate(family, protocol=PROTOCOL, groups=["grid"], model_name=MODEL, progress=advance)
    sections, results, last = [], {}, before
    for concept in (object_, style):
        edit = erase(family, [concept], method=method, model_name=MODEL)
        path = edit.save(out / concept / EDIT_NAME)
        with show.progress(f"without {concept}") as advance:
            last = evaluate(family, [concept], protocol=PROTOCOL, edits=[edit], model_name=MODEL, progress=advance)
        results[concept] = {"edit": str(path), "metrics": last.result.metrics, "became": last.result.became}
        title = f"Without {concept}"
        sections.append(evaluation_section(title, before, last, edit, commands(MODEL, path, concept)))
        write_images(out / concept, [f"{i:04d}" for i in range(len(last.images))], last.images)
    write_images(out, [f"{i:04d}" for i in range(len(before.images))], before.images)
    seconds = round(time.perf_counter() - began, 1)
    untouched = before.result.metrics
    write_run(
        out,
        "demo",
        {
            "model": MODEL,
            "method": method,
            "protocol": last.result.protocol,
            "hash": last.result.hash,
            "seconds": seconds,
            "untouched": untouched,
            "erased": results,
        },
    )
    lead = (
        f"One object ({object_}) and one style ({style}) were removed from {MODEL} with {method}, each by a small edit "
        f"file, and every object was drawn in every style before and after. {seconds:.0f} seconds in all."
    )
    report = write_page("What excise removed", lead, sections, last.result, out / "report.html")
    if as_json:
        show.print_json({"report": str(report), "seconds": seconds, "untouched": untouched, "erased": results})
        return
    rows: list[tuple[str, ...]] = [
        (
            "untouched",
            "",
            "",
            "",
            f"{untouched['object_accuracy']['value']:.3f} / {untouched['style_accuracy']['value']:.3f}",
        )
    ]
    for concept, r in results.items():
        m = r["metrics"]
        assert isinstance(m, dict)
        rows.append((f"without {concept}", *(f"{m[k]['value']:.3f}" for k in ("ua", "ira", "cra")), ""))
    show.table(rows, ("", "UA", "IRA", "CRA", "object / style accuracy"))
    show.say(f"{seconds:.0f} s. The report: {report.resolve()}")
