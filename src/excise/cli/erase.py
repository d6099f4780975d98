"""excise erase: remove concepts from a model, and write the edit as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

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
            help="Folder of a CLIP model that judges images for trained methods and --advise. Built-in models have "
            "their own judge."
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
        typer.Option("--edit", "-e", help="An earlier edit that is applied below the new one; repeatable."),
    ] = None
    keep_states: Annotated[
        bool,
        typer.Option(help="Save text-encoder outputs in the run folder, so that excise update encodes new names only."),
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

    With --edit the earlier edits are applied while the new one is made, and the new one belongs on top of them.

    Example: excise erase --model canvas-sd --concept cat --preserve dog --out runs/cat
    """
    from excise.concepts.concept import check_preserve
    from excise.methods import load_method
    from excise.methods.fitting import check_fits_model

    # Cheap checks come before the model is loaded.
    settings, preserve = options.all_settings(), o.names_to_preserve(options.preserve, options.preserve_file)
    concepts = options.concepts()
    check_preserve(concepts, preserve)
    method = load_method(options.method)
    check_fits_model(options.method, options.model)

    from excise.cli.making import Making, finish
    from excise.edits.edit import applied
    from excise.support.files import make_folder
    from excise.support.settings import configure

    configure(method.Config, options.method, settings, concepts[0].kind)
    earlier = o.load_edits(options.edit)
    make_folder(options.out)
    family = options.source.load(options.model)
    making = Making(
        "erase",
        options.model,
        options.out,
        tuple(preserve),
        options.preview,
        tuple(options.edit or ()),
        options.source.given(),
        options.as_json,
    )
    with applied(family, earlier):
        erasure = _make(options, family, concepts, preserve, settings)
        finish(making, family, erasure.edit, erasure.seconds, erasure.pictures)


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
