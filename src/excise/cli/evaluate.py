"""excise evaluate: run a protocol on a model, and report the metrics."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, edit_file, finished

if TYPE_CHECKING:
    from excise.edits.edit import Edit
    from excise.evaluation.evaluate import Evaluated
    from excise.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `excise evaluate`."""

    model: o.ModelOption = "canvas-sd"
    edit: o.EditsOption = None
    protocol: Annotated[
        str, typer.Option(help="The protocol, which fixes prompts, seeds, sampler and judge; see excise protocols.")
    ] = "canvas-mini"
    concept: Annotated[
        Optional[list[str]], typer.Option("--concept", "-c", help="An erased concept, the target; repeatable.")
    ] = None
    group: Annotated[
        Optional[list[str]], typer.Option(help="Run only this part of the protocol, for example grid; repeatable.")
    ] = None
    out: Annotated[Optional[Path], typer.Option(help="Run folder to write: run.json, report.html, images/.")] = None
    require: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Gates such as 'ua>=0.95,ira>=0.95', held against the unfavourable end of the 95 % interval; exit "
            "status 1 if one fails; repeatable."
        ),
    ] = None
    untouched: Annotated[
        Optional[bool],
        typer.Option(
            help="Also draw the untouched model with the same seeds, for metrics that compare the two. By default only "
            "with --edit."
        ),
    ] = None
    judge_weights: Annotated[
        Optional[Path], typer.Option(help="Folder of the judge's weights, for protocols of real models.")
    ] = None
    allow_other_base: o.OtherBaseOption = False
    batch: Annotated[int, typer.Option(min=1, help="Number of images drawn at once.")] = 40
    cache: o.CacheOption = None
    no_cache: o.NoCacheOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source

    @property
    def compares(self) -> bool:
        """Whether the untouched model is drawn too."""
        return bool(self.edit) if self.untouched is None else self.untouched

    def cache_key(self, plan: Protocol) -> str | None:
        """The key of the result in the cache; None where the model is not a local file or folder."""
        from excise.evaluation import result_cache

        options = {
            "concepts": self.concept,
            "groups": self.group,
            "untouched": self.compares,
            "weights": str(self.judge_weights),
            "batch": self.batch,
            "device": self.source.device,
            "dtype": self.source.dtype,
            "variant": self.source.variant,
            "config": self.source.config,
            "other_base": self.allow_other_base,
        }
        # Newer options are part of the key only if they are given, so that older results are still found.
        newer = {name: getattr(self.source, name) for name in ("prediction", "revision")}
        options |= {name: value for name, value in newer.items() if value is not None}
        edits = [str(edit_file(edit)) for edit in self.edit or []]
        return result_cache.request_key(self.model, edits, plan.hash, options)


@o.command
def evaluate(options: EvaluateOptions) -> None:
    """Measure what a model draws; with --concept, how well the concept is erased and the rest retained.

    Example: excise evaluate --model canvas-sd --edit runs/cat/edit.safetensors --concept cat --out runs/cat-evaluation
    """
    from excise.cli import gates
    from excise.evaluation import result_cache
    from excise.protocols import PROTOCOLS

    plan = PROTOCOLS.load(options.protocol)()
    for name in options.concept or []:
        plan.target_of(name)  # before a folder is made
    required = gates.parse_all(options.require or [])
    options.source.check(options.model)
    if options.out is not None:
        finished(options.out, asked("evaluate", options), force=options.force)
    cache = o.image_cache(options.cache, options.no_cache)
    key = options.cache_key(plan)
    document = result_cache.find(cache, key, options.out)
    if document is None:
        document = _run(options, cache, key)
        result_cache.keep(cache, key, document)
    _print(options, document)
    gates.check(required, document["metrics"])


def _run(options: EvaluateOptions, cache: Path | None, key: str | None) -> dict[str, Any]:
    """Run the protocol, write the run folder, and return the document of `--json`."""
    from excise.cli import show
    from excise.evaluation.evaluate import evaluate as run_protocol
    from excise.support.files import make_folder
    from excise.support.runs import locked

    edits = o.load_edits(options.edit)
    if options.out is not None:
        make_folder(options.out)
    with locked(options.out) if options.out is not None else nullcontext():
        family = options.source.load(options.model)
        with show.progress("drawing") as advance:
            evaluated = run_protocol(
                family,
                options.concept or [],
                edits=edits,
                protocol=options.protocol,
                groups=options.group,
                untouched=options.compares,
                judge_weights=options.judge_weights,
                allow_other_base=options.allow_other_base,
                model_name=options.model,
                batch=options.batch,
                cache=cache,
                progress=advance,
            )
        if options.out is not None:
            _write(options, options.out, evaluated, edits, key)
    return evaluated.result.model_dump(mode="json", exclude={"shown"})


def _write(options: EvaluateOptions, out: Path, evaluated: Evaluated, edits: list[Edit], key: str | None) -> None:
    """Write the run folder: images, report, and last run.json, which marks the folder as complete."""
    from excise.report.run_page import evaluation_section, write_page
    from excise.support.runs import write_images, write_run

    result = evaluated.result
    write_images(out, [f"{i:04d}" for i in range(len(evaluated.images))], evaluated.images)
    title = f"{result.model} without {', '.join(result.concepts)}" if result.concepts else result.model
    section = evaluation_section("Results", evaluated.before, evaluated, edits[0] if edits else None, [])
    write_page(title, "Measured by excise evaluate.", [section], result, out / "report.html")
    entries = {"edits": options.edit or [], "request": key, **asked("evaluate", options).entries()}
    write_run(out, "evaluate", {**result.model_dump(mode="json"), **entries})


def _print(options: EvaluateOptions, document: dict[str, Any]) -> None:
    from excise.cli import show

    if options.as_json:
        show.print_json(document)
        return
    rows = [
        (name, f"{m['value']:.3f}", f"{m['low']:.3f} - {m['high']:.3f}", str(int(m["n"])))
        for name, m in document["metrics"].items()
    ]
    show.table(rows, ("metric", "value", "95 % interval", "n"))
    if options.out is not None:
        show.say(f"report: {options.out / 'report.html'}")
