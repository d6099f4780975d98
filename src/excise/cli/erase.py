"""excise erase: remove concepts from a model, and write the edit as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, check_apart, finished
from excise.cli.making import Making, answer, finish
from excise.cli.planning import Plan, planned, show_plan
from excise.support.runs import EDIT_NAME, edit_path

if TYPE_CHECKING:
    from excise.concepts.concept import Concept
    from excise.erasing.erase import Erasure
    from excise.families.base import Family

ROBUST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class EraseOptions:
    """The options of `excise erase`."""

    out: Annotated[Path, typer.Option(help="Run folder to write: edit.safetensors, run.json, report.html.")]
    concept: Annotated[
        Optional[list[str]], typer.Option("--concept", "-c", help="A concept to remove; repeatable.")
    ] = None
    concept_file: Annotated[
        Optional[Path],
        typer.Option(
            help="A file of concepts to remove: text (one a line), or CSV or YAML with name, kind, synonyms, anchor."
        ),
    ] = None
    model: o.ModelOption = "canvas-sd"
    method: Annotated[str, typer.Option(help="The method; excise methods lists them.")] = "speed"
    preserve: o.PreserveOption = None
    preserve_file: o.PreserveFileOption = None
    vocabulary: o.VocabularyOption = "auto"
    kind: o.KindOption = None
    anchor: Annotated[
        Optional[str],
        typer.Option(
            help="Words that the model reads instead of the concept; '' for nothing. By default those of the method."
        ),
    ] = None
    set_: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="A setting of the method, key=value; repeatable. excise methods NAME lists them."),
    ] = None
    seed: o.SeedOption = 0
    preview: o.PreviewOption = None
    advise: Annotated[
        bool,
        typer.Option("--advise", help="Try several strengths of a closed-form method and choose the best balance."),
    ] = False
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="Judge (excise doctor --judges) or CLIP folder for trained methods and --advise. Built-in models "
            "have their own."
        ),
    ] = None
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help=f"Also erase what an attack would use to recover the concept, in {ROBUST_ROUNDS} rounds; "
            "--set robust=N for N rounds.",
        ),
    ] = False
    charts: Annotated[
        Optional[bool],
        typer.Option(
            help="Also draw for the report what the edit does in each attention block alone (trained methods). "
            "Built-in models do so by default."
        ),
    ] = None
    edit: Annotated[
        Optional[list[str]],
        typer.Option(
            "--edit", "-e", help="An earlier edit, applied below the new one: a file or a run folder; repeatable."
        ),
    ] = None
    keep_states: Annotated[
        bool,
        typer.Option(help="Save text-encoder outputs in the run folder, so that excise update encodes new names only."),
    ] = False
    force: ForceOption = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made, and write nothing; no model is loaded.")
    ] = False
    as_json: o.JsonOption = False
    source: o.Source

    def all_settings(self) -> dict[str, Any]:
        """The settings of `--set` and `--robust`."""
        settings = o.parse_settings(self.set_ or [])
        if self.robust:
            settings.setdefault("robust", ROBUST_ROUNDS)
        return settings

    def concepts(self) -> list[Concept]:
        """The concepts of `--concept` and `--concept-file`, checked."""
        from excise.concepts.concept import as_concepts
        from excise.concepts.concept_file import read_concepts

        from_file = read_concepts(self.concept_file, self.kind) if self.concept_file else []
        return as_concepts([*(self.concept or []), *from_file], self.kind)


@o.command
def erase(options: EraseOptions) -> None:
    """Remove concepts from a model, and write the edit as a small file.

    With --edit the earlier edits are applied while the new one is made, and the new one belongs on top of them. A
    finished run in --out is answered from what is there if it is of the same request, and is else replaced only with
    --force.

    Example: excise erase --model canvas-sd --concept cat --preserve dog --out runs/cat
    """
    settings, preserve = options.all_settings(), o.names_to_preserve(options.preserve, options.preserve_file)
    concepts = options.concepts()
    request = asked("erase", options)
    _check(options, concepts, preserve)  # before anything large is imported
    making = Making(
        "erase",
        options.model,
        options.out,
        tuple(preserve),
        options.preview,
        tuple(options.edit or ()),
        options.source.given(),
        options.as_json,
        request,
    )
    earlier = None if options.dry_run else finished(options.out, request, force=options.force, writes=[EDIT_NAME])
    if earlier is not None:
        answer(making, earlier)
        return
    _warn(options, concepts, preserve, settings)
    plan = _planned(options, concepts, preserve, settings)
    if options.dry_run:
        show_plan(plan, options.out, options.as_json)
        return

    from excise.edits.edit import applied
    from excise.support.runs import SHOWN, run_folder

    below = o.load_edits(options.edit)
    with run_folder(options.out, SHOWN):
        draws = options.advise or making.draws
        family = options.source.load_for(options.method, options.model, draws=draws, below=below)
        _say_what_is_kept(plan)
        with applied(family, below):
            erasure = _make(options, family, concepts, preserve, settings)
            finish(making, family, erasure.edit, erasure.seconds, erasure.pictures)


def _check(options: EraseOptions, concepts: list[Concept], preserve: list[str]) -> None:
    """Refuse what names and files alone show to be wrong; torch is not imported."""
    from excise.concepts.concept import check_preserve
    from excise.errors import EditFileError
    from excise.methods import METHODS
    from excise.methods.fitting import check_fits_model

    check_preserve(concepts, preserve)
    METHODS.record(options.method)
    check_fits_model(options.method, options.model)
    options.source.check(options.model)
    o.check_judge(options.judge)
    check_apart(options.out, options.edit or [])
    for edit in options.edit or []:
        if not edit_path(edit).is_file():
            raise EditFileError(
                f"there is no edit file {edit_path(edit)}; give the edit.safetensors that `excise erase` wrote."
            )


def _warn(options: EraseOptions, concepts: list[Concept], preserve: list[str], settings: dict[str, Any]) -> None:
    """Warn of names that are probably not meant so, and of a request that keeps nothing, before any work begins."""
    from excise.concepts.known_names import warn_of_names
    from excise.families.built_in import names_built_in

    if names_built_in(options.model):
        o.check_no_slips(options.model, [c.name for c in concepts])
        o.warn_outside_canvas(options.model, [c.name for c in concepts])
        o.warn_outside_canvas(options.model, preserve, o.KEPT)
        anchors = [c.anchor for c in concepts if c.anchor] + ([options.anchor] if options.anchor else [])
        o.warn_outside_canvas(options.model, anchors, "it does not know what to read in the concept's place")
        return
    warn_of_names(concepts, options.kind)

    from excise.erasing.cautions import vocabulary_name, warn_of_nothing_kept

    warn_of_nothing_kept(preserve, vocabulary_name(options.vocabulary, settings))


def _say_what_is_kept(plan: Plan) -> None:
    """Say so where no name was given and a model of the user's own keeps the built-in list."""
    from excise.cli import show
    from excise.concepts.vocabulary import ORDINARY, ordinary_names

    if not plan.preserve and plan.vocabulary == ORDINARY:
        kinds = dict.fromkeys(c.kind for c in plan.concepts)
        count = sum(len(ordinary_names(kind, plan.concepts)) for kind in kinds)
        show.say(
            f"to keep:  no name is given, so {count} ordinary names of kind {' and '.join(kinds)} (the built-in list) "
            "are kept; add your own with --preserve or --preserve-file"
        )


def _planned(options: EraseOptions, concepts: list[Concept], preserve: list[str], settings: dict[str, Any]) -> Plan:
    """The plan of the request; the warnings that the work itself gives are left to it."""
    import warnings

    from excise.concepts.vocabulary import kind_in
    from excise.errors import ExciseWarning, PluginWarning
    from excise.families.usual import usual_of
    from excise.methods import settings_of
    from excise.support.settings import configure

    if settings:  # refused before torch is imported
        usual = usual_of(options.model)
        kind = kind_in(concepts[0], options.kind, options.vocabulary, bool(usual.presets))
        configure(settings_of(options.method), options.method, settings, kind, usual)

    from excise.erasing.erase import Naming

    naming = Naming(preserve, options.vocabulary, options.kind, options.anchor)
    with warnings.catch_warnings():
        if not options.dry_run:
            warnings.simplefilter("ignore", ExciseWarning)
            warnings.simplefilter("default", PluginWarning)  # given once, when a registry is first read
        return planned(options.model, concepts, options.method, settings, naming, seed=options.seed, edits=options.edit)


def _make(
    options: EraseOptions, family: Family, concepts: list[Concept], preserve: list[str], settings: dict[str, Any]
) -> Erasure:
    """Make the edit, with `--advise` after a sweep over strengths."""
    from excise.cli import show
    from excise.erasing.advise import find_strength
    from excise.erasing.erase import Erasure, Naming, Origin, make_edit
    from excise.families.built_in import is_built_in
    from excise.methods.base import Context
    from excise.support.runs import STATES

    states = options.out / STATES if options.keep_states else None
    naming = Naming(preserve, options.vocabulary, options.kind, options.anchor)
    origin = Origin(options.model, options.source.revision)
    charts = is_built_in(family) if options.charts is None else options.charts
    with show.stages() as say:
        context = Context(options.judge, options.out / "training", o.user_cache(), states, say, charts=charts)
        if options.advise:
            advice = find_strength(family, concepts, options.method, settings, naming, origin, options.seed, context)
            return Erasure(advice.edit, {}, advice.seconds)
        return make_edit(family, concepts, options.method, settings, naming, origin, options.seed, context)
