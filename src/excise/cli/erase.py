"""excise erase: concepts in, an edit file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o


@o.with_source
def erase(
    concept: Annotated[list[str], typer.Option("--concept", "-c", help="What to remove; repeatable.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    model: o.ModelOption = "canvas-sd",
    method: Annotated[str, typer.Option(help="See: excise methods")] = "speed",
    preserve: Annotated[
        Optional[list[str]], typer.Option("--preserve", "-p", help="A name to keep; repeatable.")
    ] = None,
    preserve_file: Annotated[
        Optional[Path], typer.Option(help="Names to keep: text (one a line) or CSV (first column).")
    ] = None,
    vocabulary: Annotated[
        str, typer.Option(help="Built-in prompts to keep: auto, none, canvas or canvas-strict.")
    ] = "auto",
    kind: Annotated[Optional[str], typer.Option(help="object, instance, style, person or explicit.")] = None,
    anchor: Annotated[Optional[str], typer.Option(help="What the concept is read as instead; '' for nothing.")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="A setting of the method, key=value.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random in the method.")] = 0,
    preview: Annotated[
        Optional[bool], typer.Option(help="Draw a few images before and after; on by default for built-in models.")
    ] = None,
    judge: Annotated[
        Optional[Path],
        typer.Option(help="For trained methods: folder of a CLIP model that looks on; built-in models have their own."),
    ] = None,
    edit: o.EditsOption = None,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Remove concepts from a model and write the edit as a small file.

    With --edit the earlier edits are in force meanwhile, and the new one belongs on top of them.

    Example: excise erase --model canvas-sd --concept cat --preserve dog --out runs/cat
    """
    from excise.concept import as_concepts, check_name, check_preserve, read_names
    from excise.methods import METHODS

    settings = o.parse_settings(set_ or [])
    names = [check_name(p, "name to preserve") for p in preserve or []]
    if preserve_file is not None:
        names += read_names(preserve_file)
    concepts = as_concepts(concept, kind)  # cheap checks first, the model later
    check_preserve(concepts, names)
    method_class = METHODS.load(method)

    from excise.cli import show
    from excise.edit import applied
    from excise.erasing import erase as erase_concepts
    from excise.erasing import is_built_in
    from excise.files import make_folder
    from excise.methods.base import configure
    from excise.reporting import erase_page
    from excise.runs import EDIT_NAME, write_images, write_run
    from excise.training.problem import Room

    configure(method_class.Config, method, settings, concepts[0].kind)
    earlier = o.load_edits(edit)
    make_folder(out)
    family = source.load(model)
    timings: dict[str, float] = {}
    with applied(family, earlier):
        with show.stages() as say:
            room = Room(judge, out / "training", o.user_cache(), say)
            made = erase_concepts(
                family,
                concept,
                method,
                preserve=names,
                vocabulary=None if vocabulary == "none" else vocabulary,
                kind=kind,
                anchor=anchor,
                seed=seed,
                model_name=model,
                revision=source.revision,
                room=room,
                timings=timings,
                **settings,
            )
        path = made.save(out / EDIT_NAME)
        if preview if preview is not None else is_built_in(family):
            with show.progress("drawing a preview") as advance:
                pairs = erase_page(family, made, model, out, names, advance, room.pictures)
            write_images(
                out,
                [f"{i:02d}-{when}" for i in range(len(pairs)) for when in ("before", "after")],
                [image for p in pairs for image in (p.before, p.after)],
            )
        else:
            erase_page(family, made, model, out, names, None, room.pictures)
    result = erase_result(made, path, timings)
    write_run(out, "erase", {**result, "record": made.record.model_dump(mode="json")})
    if as_json:
        show.print_json(result)
        return
    show.say(
        f"{', '.join(concept)} erased from {model} with {method} in {sum(timings.values()):.1f} s: "
        f"{path} ({path.stat().st_size / 1024:.0f} kB)"
    )
    show.say(f"see it:   {out / 'report.html'}")
    edits = " ".join(f"--edit {e}" for e in [*(edit or []), path])
    show.say(f"verify:   excise evaluate --model {model} {edits} --concept '{concept[0]}' --out {out}-evaluation")


def erase_result(edit: object, path: Path, timings: dict[str, float]) -> dict[str, object]:
    """The JSON shape of `erase --json`."""
    from excise.edit import Edit, TextMap, total_bytes

    assert isinstance(edit, Edit)
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
