"""excise evaluate: run a protocol on a model and report it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o


@o.with_source
def evaluate(
    model: o.ModelOption = "canvas-sd",
    edit: o.EditsOption = None,
    protocol: Annotated[str, typer.Option(help="Which prompts, seeds, sampler and judge.")] = "canvas-mini",
    concept: Annotated[Optional[list[str]], typer.Option("--concept", "-c", help="The target; repeatable.")] = None,
    group: Annotated[
        Optional[list[str]], typer.Option(help="Parts of the protocol to run, for example grid; repeatable.")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Run folder to write: run.json, report.html, images/.")] = None,
    require: Annotated[
        Optional[list[str]], typer.Option(help="A gate such as 'ua>=0.95'; exit status 1 when it fails; repeatable.")
    ] = None,
    allow_other_base: o.OtherBaseOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 40,
    cache: o.CacheOption = None,
    no_cache: o.NoCacheOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Measure what a model draws: with --concept how well it is gone and the rest is kept.

    Example: excise evaluate --model canvas-sd --edit runs/cat/edit.safetensors --concept cat --out runs/cat-evaluation
    """
    from excise.cli import gates, show
    from excise.evaluation import evaluate as run_protocol
    from excise.files import make_folder
    from excise.protocols import PROTOCOLS
    from excise.reporting import evaluation_section, write_page
    from excise.runs import write_images, write_run

    PROTOCOLS.record(protocol)
    wanted = [gates.parse(text) for text in require or []]
    edits = o.load_edits(edit)
    if out is not None:
        make_folder(out)
    family = source.load(model)
    with show.progress("drawing") as advance:
        evaluated = run_protocol(
            family,
            concept or [],
            edits=edits,
            protocol=protocol,
            groups=group,
            allow_other_base=allow_other_base,
            model_name=model,
            batch=batch,
            cache=o.image_cache(cache, no_cache),
            progress=advance,
        )
    result = evaluated.result
    document = result.model_dump(mode="json", exclude={"shown"})
    if out is not None:
        names = [f"{i:04d}" for i in range(len(evaluated.images))]
        write_images(out, names, evaluated.images)
        write_run(out, "evaluate", {**result.model_dump(mode="json"), "edits": edit or []})
        title = f"{model} without {', '.join(result.concepts)}" if result.concepts else model
        section = evaluation_section("Results", None, evaluated, edits[0] if edits else None, [])
        write_page(title, "Measured by excise evaluate.", [section], result, out / "report.html")
    if as_json:
        show.print_json(document)
    else:
        rows = [
            (name, f"{m['value']:.3f}", f"{m['low']:.3f} - {m['high']:.3f}", str(int(m["n"])))
            for name, m in result.metrics.items()
        ]
        show.table(rows, ("metric", "value", "95 % interval", "n"))
        if out is not None:
            show.say(f"see it: {out / 'report.html'}")
    failed = [g for g in wanted if not g.holds(result.metrics)]
    for gate in failed:
        show.say(f"gate failed: {gate.explain(result.metrics)}")
    if failed:
        raise typer.Exit(1)
