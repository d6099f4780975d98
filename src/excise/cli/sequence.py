"""excise sequence: delete concepts one after another, and look after each deletion at what is gone and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import Asked, ForceOption, asked, finished

if TYPE_CHECKING:
    from excise.bench.sequence import Deletions
    from excise.bench.sequence_result import SequenceResult
    from excise.concepts.concept import Concept

SHARE = 0.8  # below which the other names count as lost; the default of policies


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """The options of `excise sequence`."""

    out: Annotated[
        Path, typer.Option(help="Run folder to write: run.json, report.html, edits/; an interrupted run resumes there.")
    ]
    concept: Annotated[
        Optional[list[str]],
        typer.Option("--concept", "-c", help="A concept to delete; repeatable, in the order of the deletions."),
    ] = None
    concept_file: Annotated[
        Optional[Path],
        typer.Option(help="A file of further concepts, in a format of erase --concept-file."),
    ] = None
    model: o.ModelOption = "canvas-sd"
    method: Annotated[str, typer.Option(help="The method; excise methods lists them.")] = "speed"
    anew: Annotated[
        bool,
        typer.Option(
            "--anew",
            help="Make at each step one edit of all concepts so far, as excise update does. By default each step is an "
            "edit on top of the earlier ones.",
        ),
    ] = False
    share: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="The model has collapsed when less than this share of its other names is left."
        ),
    ] = SHARE
    preserve: o.PreserveOption = None
    preserve_file: o.PreserveFileOption = None
    vocabulary: o.VocabularyOption = "auto"
    kind: o.KindOption = None
    anchor: Annotated[
        Optional[str],
        typer.Option(help="Words that the model reads instead of a concept. By default those of the method."),
    ] = None
    set_: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="A setting of the method, key=value; repeatable. excise methods NAME lists them."),
    ] = None
    seed: o.SeedOption = 0
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="Name of a judge (excise doctor --judges), or the folder of a CLIP model. Built-in models have their "
            "own."
        ),
    ] = None
    judge_weights: Annotated[Optional[Path], typer.Option(help="Folder of the judge's weights.")] = None
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each concept after each step.")] = 10
    batch: Annotated[int, typer.Option(min=1, help="Number of images drawn at once.")] = 40
    cache: o.CacheOption = None
    no_cache: o.NoCacheOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source

    def concepts(self) -> list[Concept]:
        """The concepts in their order, checked."""
        from excise.concepts.concept import as_concepts
        from excise.concepts.concept_file import read_concepts

        from_file = read_concepts(self.concept_file, self.kind) if self.concept_file else []
        return as_concepts([*(self.concept or []), *from_file], self.kind)


@o.command
def sequence(options: SequenceOptions) -> None:
    """Delete concepts one after another, and test after each deletion all earlier ones and what is left.

    The page and run.json tell what is gone after each step, what came back later, and when the rest collapsed.

    Example: excise sequence --model canvas-sd --concept cat --concept neon --concept car --out runs/sequence
    """
    from excise.bench.sequence_result import SCHEMA, SequenceResult

    concepts, preserve = options.concepts(), o.names_to_preserve(options.preserve, options.preserve_file)
    request = asked("sequence", options)
    _check(options, concepts, preserve)
    run = finished(options.out, request, force=options.force)
    if run is not None and run.get("schema_version") == SCHEMA:
        names = SequenceResult.model_fields
        result = SequenceResult.model_validate({k: v for k, v in run.items() if k in names})
    else:
        result = _run(options, request, concepts, preserve, fresh=options.force or run is not None)
    _print(options, result)


def _check(options: SequenceOptions, concepts: list[Concept], preserve: list[str]) -> None:
    """Refuse what names and files alone show to be wrong; torch is not imported."""
    from excise.concepts.concept import check_preserve
    from excise.concepts.known_names import warn_of_names
    from excise.concepts.vocabulary import kind_in
    from excise.errors import ConceptError
    from excise.families.built_in import names_built_in
    from excise.families.usual import usual_of
    from excise.methods import METHODS, settings_of
    from excise.methods.fitting import check_fits_model
    from excise.support.settings import configure

    if len(concepts) < 2:
        raise ConceptError("one deletion is no sequence; name at least two concepts, in the order of their deletion.")
    check_preserve(concepts, preserve)
    METHODS.record(options.method)
    check_fits_model(options.method, options.model)
    options.source.check(options.model)
    o.check_judge(options.judge)
    o.check_weights(options.judge_weights)
    if settings := o.parse_settings(options.set_ or []):
        usual = usual_of(options.model)
        for kind in {kind_in(c, options.kind, options.vocabulary, bool(usual.presets)) for c in concepts}:
            configure(settings_of(options.method), options.method, settings, kind, usual)
    if names_built_in(options.model):
        o.check_no_slips(options.model, [c.name for c in concepts])
        o.warn_outside_canvas(options.model, [c.name for c in concepts])
        o.warn_outside_canvas(options.model, preserve, o.KEPT)
    else:
        warn_of_names(concepts, options.kind)


def _run(
    options: SequenceOptions, request: Asked, concepts: list[Concept], preserve: list[str], *, fresh: bool
) -> SequenceResult:
    """Delete, look, and write the run folder; run.json last, which marks it as complete.

    Args:
        fresh: remove what an earlier run left, and make every step again.
    """
    import shutil

    from excise.bench.sequence import Drawing, delete_in_sequence, pictures_of, plan_of
    from excise.bench.sequence_folder import PAGE, TRAINING
    from excise.cli import show
    from excise.evaluation.cost import picture_cost
    from excise.report.sequence_page import write_sequence_page
    from excise.support.runs import STATES, run_folder, write_run

    wanted = _deletions(options, concepts, preserve)
    with run_folder(options.out):
        family = options.source.load(options.model)
        plan = plan_of(family, wanted)
        if sentence := picture_cost(family, plan, pictures_of(plan)):
            show.say(sentence)
        cache = o.image_cache(options.cache, options.no_cache)
        drawing = Drawing(options.batch, cache=cache, states=options.out / STATES)
        with show.stages() as say:
            result = delete_in_sequence(family, wanted, options.out, plan=plan, drawing=drawing, fresh=fresh, say=say)
        write_sequence_page(result, options.out / PAGE)
        for made_on_the_way in (STATES, TRAINING):
            shutil.rmtree(options.out / made_on_the_way, ignore_errors=True)
        write_run(options.out, "sequence", {**result.model_dump(mode="json"), **request.entries()})
    return result


def _deletions(options: SequenceOptions, concepts: list[Concept], preserve: list[str]) -> Deletions:
    """The request."""
    from excise.bench.sequence import Deletions
    from excise.erasing.erase import Naming, Origin

    return Deletions(
        concepts,
        options.method,
        o.parse_settings(options.set_ or []),
        Naming(preserve, options.vocabulary, options.kind, options.anchor),
        Origin(options.model, options.source.revision),
        options.seed,
        stacked=not options.anew,
        judge=options.judge,
        weights=options.judge_weights,
        pictures=options.pictures,
        share=options.share,
    )


def _print(options: SequenceOptions, result: SequenceResult) -> None:
    """Print the steps and what they come to."""
    from excise.bench.sequence_result import verdicts
    from excise.cli import show

    if options.as_json:
        show.print_json(result.model_dump(mode="json"))
        return
    head = ("step", "deleted", "gone of all so far", "95 % interval", "other names left", "95 % interval")
    rows = [(str(s.step), s.concept, *_cells(s.gone), *_cells(s.retained)) for s in result.steps]
    show.table(rows, head)
    for sentence, _ in verdicts(result):
        show.say(sentence)
    show.say(f"report: {options.out / 'report.html'}")


def _cells(figure: dict[str, Any] | None) -> tuple[str, str]:
    """A rate and its interval."""
    from excise.evaluation.catalog import interval, quantity

    return (quantity(figure["value"], "rate"), interval(figure, "rate")) if figure else ("–", "")
