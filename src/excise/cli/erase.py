"""excise erase: concepts in, an edit file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o

ROUNDS = 3  # of --robust


@o.with_source
def erase(
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    concept: Annotated[Optional[list[str]], typer.Option("--concept", "-c", help="What to remove; repeatable.")] = None,
    concept_file: Annotated[
        Optional[Path],
        typer.Option(help="What to remove: text (one a line), CSV or YAML with name, kind, synonyms, anchor."),
    ] = None,
    model: o.ModelOption = "canvas-sd",
    method: Annotated[str, typer.Option(help="See: excise methods")] = "speed",
    preserve: o.PreserveOption = None,
    preserve_file: o.PreserveFileOption = None,
    vocabulary: o.VocabularyOption = "auto",
    kind: o.KindOption = None,
    anchor: Annotated[Optional[str], typer.Option(help="What the concept is read as instead; '' for nothing.")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="A setting of the method, key=value.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random in the method.")] = 0,
    preview: o.PreviewOption = None,
    advise: Annotated[
        bool, typer.Option("--advise", help="Try several strengths of a closed form and take the best balance.")
    ] = False,
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="For trained methods and --advise: folder of a CLIP model that looks on; built-in models need none."
        ),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option("--robust", help="Also erase what would bring the concept back; --set robust=N for N rounds."),
    ] = False,
    charts: Annotated[
        Optional[bool],
        typer.Option(
            help="Also draw what each block's part of a trained edit does alone, for the report; by default on the "
            "built-in models."
        ),
    ] = None,
    edit: o.EditsOption = None,
    keep_states: Annotated[
        bool, typer.Option(help="Keep the text states in the run folder: excise update then encodes new concepts only.")
    ] = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Remove concepts from a model and write the edit as a small file.

    With --edit the earlier edits are in force meanwhile, and the new one belongs on top of them.

    Example: excise erase --model canvas-sd --concept cat --preserve dog --out runs/cat
    """
    from excise.concepts.concept import Concept, as_concepts, check_preserve
    from excise.concepts.concept_file import read_concepts
    from excise.methods import load_method
    from excise.methods.fitting import check_fits_model

    settings = o.parse_settings(set_ or [])
    if robust:
        settings.setdefault("robust", ROUNDS)
    names = o.kept_names(preserve, preserve_file)
    asked: list[str | Concept] = [*(concept or []), *(read_concepts(concept_file, kind) if concept_file else [])]
    concepts = as_concepts(asked, kind)  # cheap checks first, the model later
    check_preserve(concepts, names)
    method_class = type(load_method(method))
    check_fits_model(method, model)

    from excise.cli import show
    from excise.cli.making import finish
    from excise.edits.edit import applied
    from excise.erasing.advise import find_strength
    from excise.erasing.erase import Erasure, Naming, Origin, make_edit
    from excise.families.built_in import is_built_in
    from excise.methods.base import Context
    from excise.support.files import make_folder
    from excise.support.runs import STATES
    from excise.support.settings import configure

    configure(method_class.Config, method, settings, concepts[0].kind)
    earlier = o.load_edits(edit)
    make_folder(out)
    family = source.load(model)
    states = out / STATES if keep_states else None
    naming, origin = Naming(names, vocabulary, kind, anchor), Origin(model, source.revision)
    with applied(family, earlier):
        with show.stages() as say:
            drawn = is_built_in(family) if charts is None else charts
            context = Context(judge, out / "training", o.user_cache(), states, say, charts=drawn)
            if advise:
                advice = find_strength(family, concepts, method, settings, naming, origin, seed, context)
                made = Erasure(advice.edit, {}, advice.seconds)
            else:
                made = make_edit(family, concepts, method, settings, naming, origin, seed, context)
        finish(
            "erase",
            family,
            made.edit,
            model,
            out,
            made.seconds,
            preserve=names,
            preview=preview,
            drawn=made.pictures,
            earlier=edit or (),
            loaded=source.given(),
            as_json=as_json,
        )
