"""excise evaluate: run a protocol on a model and report it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.edits.edit import Edit
    from excise.evaluation.evaluate import Evaluated


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
        Optional[list[str]],
        typer.Option(
            help="Gates such as 'ua>=0.95,ira>=0.95', held against the lower end of the 95 % interval; exit status 1 "
            "when one fails; repeatable."
        ),
    ] = None,
    untouched: Annotated[
        Optional[bool],
        typer.Option(help="Draw the same without the edits too, for what only the pair can tell; on with --edit."),
    ] = None,
    judge_weights: Annotated[
        Optional[Path], typer.Option(help="Folder of the judge's weights, for protocols of real models.")
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
    from excise.evaluation import result_cache as recall
    from excise.protocols import PROTOCOLS

    plan = PROTOCOLS.load(protocol)()
    for name in concept or []:
        plan.target_of(name)  # before a folder is made
    wanted = gates.parse_all(require or [])
    images = o.image_cache(cache, no_cache)
    beside = bool(edit) if untouched is None else untouched
    options = {
        **{"concepts": concept, "groups": group, "untouched": beside, "weights": str(judge_weights), "batch": batch},
        **{"device": source.device, "dtype": source.dtype, "variant": source.variant, "config": source.config},
        "other_base": allow_other_base,
        **{name: value for name in ("prediction", "revision") if (value := getattr(source, name)) is not None},
    }
    key = recall.request_key(model, edit or [], plan.hash, options)
    document = recall.find(images, key, out)
    if document is None:
        from excise.evaluation.evaluate import evaluate as run_protocol
        from excise.support.files import make_folder
        from excise.support.runs import locked

        edits = o.load_edits(edit)
        with ExitStack() as held:
            if out is not None:
                make_folder(out)
                held.enter_context(locked(out))
            family = source.load(model)
            with show.progress("drawing") as advance:
                evaluated = run_protocol(
                    family,
                    concept or [],
                    edits=edits,
                    protocol=protocol,
                    groups=group,
                    untouched=beside,
                    judge_weights=judge_weights,
                    allow_other_base=allow_other_base,
                    model_name=model,
                    batch=batch,
                    cache=images,
                    progress=advance,
                )
            document = evaluated.result.model_dump(mode="json", exclude={"shown"})
            if out is not None:
                _write(out, evaluated, edits, edit or [], key)
        recall.keep(images, key, document)
    if as_json:
        show.print_json(document)
    else:
        rows = [
            (name, f"{m['value']:.3f}", f"{m['low']:.3f} - {m['high']:.3f}", str(int(m["n"])))
            for name, m in document["metrics"].items()
        ]
        show.table(rows, ("metric", "value", "95 % interval", "n"))
        if out is not None:
            show.say(f"see it: {out / 'report.html'}")
    failed = [g for g in wanted if not g.holds(document["metrics"])]
    for gate in failed:
        show.say(f"gate failed: {gate.explain(document['metrics'])}")
    if failed:
        raise typer.Exit(1)


def _write(out: Path, evaluated: Evaluated, edits: list[Edit], files: list[str], key: str | None) -> None:
    """The run folder: images, report, and last of all run.json, which says that it is whole."""
    from excise.report.run_page import evaluation_section, write_page
    from excise.support.runs import write_images, write_run

    result = evaluated.result
    write_images(out, [f"{i:04d}" for i in range(len(evaluated.images))], evaluated.images)
    title = f"{result.model} without {', '.join(result.concepts)}" if result.concepts else result.model
    section = evaluation_section("Results", evaluated.before, evaluated, edits[0] if edits else None, [])
    write_page(title, "Measured by excise evaluate.", [section], result, out / "report.html")
    write_run(out, "evaluate", {**result.model_dump(mode="json"), "edits": files, "request": key})
