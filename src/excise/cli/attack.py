"""excise attack: find out what an erased model still knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from excise.cli import options as o


@o.with_source
def attack(
    concept: Annotated[str, typer.Option("--concept", "-c", help="What is said to be gone.")],
    out: Annotated[
        Path, typer.Option(help="Run folder to write: run.json, report.html, attacks/. It goes on where it stopped.")
    ],
    model: o.ModelOption = "canvas-sd",
    edit: o.EditsOption = None,
    suite: Annotated[str, typer.Option(help="quick, standard or full.")] = "quick",
    only: Annotated[
        Optional[list[str]], typer.Option("--attack", help="Of the suite, this attack alone; repeatable.")
    ] = None,
    oracle: Annotated[
        Optional[str], typer.Option(help="A model that never knew the concept, attacked in the same way.")
    ] = None,
    base: Annotated[
        Optional[str], typer.Option(help="The untouched model, where --model was erased by other means than --edit.")
    ] = None,
    judge: Annotated[
        Optional[Path], typer.Option(help="Folder of a CLIP model that judges; built-in models have their own.")
    ] = None,
    other: Annotated[Optional[list[str]], typer.Option(help="Another thing of the target's kind; repeatable.")] = None,
    kind: o.KindOption = None,
    synonym: Annotated[
        Optional[list[str]], typer.Option(help="Another word for the concept, asked for in turn; repeatable.")
    ] = None,
    ask: Annotated[
        Optional[Path], typer.Option(help="Prompts of your own that ask for the target, one a line.")
    ] = None,
    images: Annotated[Optional[int], typer.Option(help="Pictures a test prompt may have.")] = None,
    tests: Annotated[Optional[int], typer.Option(help="Test prompts.")] = None,
    settings: Annotated[
        Optional[list[str]], typer.Option("--set", help="A setting of every attack that has it, key=value; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of searches and pictures.")] = 0,
    require: Annotated[
        Optional[list[str]],
        typer.Option(help="Gates such as 'worst_gap<=0.3'; exit status 1 when one fails; repeatable."),
    ] = None,
    allow_other_base: o.OtherBaseOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Try to bring a concept back, beside controls with the same budget.

    Gates are held against the unfavourable end of the 95 % interval. Kind and synonyms are those of the edit's record,
    unless they are given.

    Example: excise attack --model canvas-sd --edit runs/cat/edit.safetensors --concept cat --out runs/cat-attacked
    """
    from excise.attacks.suite import SuiteOptions, estimate, target_of
    from excise.attacks.suite import attack as run_suite
    from excise.cli import gates, show
    from excise.errors import ConceptError, SettingError
    from excise.families.built_in import names_built_in
    from excise.report.attack_page import document, write_page
    from excise.support.files import make_folder
    from excise.support.runs import locked, write_run
    from excise.support.strict import read_text

    wanted = gates.parse_all(require or [], ("worst_gap", "worst_back"))
    if oracle is None and any(g.metric == "worst_gap" for g in wanted):
        raise SettingError(
            "worst_gap needs a model that never knew the concept: give it with --oracle, or require worst_back, the "
            "share of prompts that the strongest attack brings it back on."
        )
    knobs = o.parse_settings(settings or [])
    edits = o.load_edits(edit)
    lines = read_text(ask, "prompts", ConceptError).splitlines() if ask else []
    asked = [line.strip() for line in lines if line.strip()]
    canvas = names_built_in(model) or names_built_in(base)
    target = target_of(concept, edits, kind, synonym or (), canvas=canvas)
    family = source.load(model)
    never = source.load(oracle) if oracle else None
    untouched = source.load(base) if base else None
    options = SuiteOptions(
        suite=suite,
        names=only or (),
        settings=knobs,
        images=images,
        tests=tests,
        base=untouched,
        oracle=never,
        judge=judge,
        others=other or (),
        prompts=asked,
        allow_other_base=allow_other_base,
        seed=seed,
        folder=out,
    )
    seconds = estimate(family, options)
    show.say(f"about {max(1, round(seconds / 60))} min for the suite '{suite}' here")
    make_folder(out)
    with locked(out):
        with show.stages() as say:
            found = run_suite(family, target, edits, options, say)
        result = document(found)
        write_page(found, model, concept, edit or [], suite, out)
        request: dict[str, Any] = {"model": model, "edits": edit or [], "concept": concept, "suite": suite}
        request |= {"kind": target.kind, "synonyms": list(target.synonyms)}
        request |= {"oracle": oracle, "base": base, "others": other or [], "asked": asked, "settings": knobs}
        write_run(out, "attack", {**request, "seed": seed, **result})
    if as_json:
        show.print_json(result)
    else:
        rows = [
            (a["name"], _share(a["any_of_n"]), _share(a["control"]), _share(a["oracle"]), _share(a["gap"]), a["why"])
            for a in result["attacks"]
        ]
        show.table(rows, ("attack", "came back", "control", "oracle", "gap", ""))
        show.say(f"see it: {out / 'report.html'}")
    top = found.worst
    figures = {"worst_gap": top.gap, "worst_back": top.back}
    value = {name: e.as_dict() for name, e in figures.items() if e}
    failed = [g for g in wanted if g.metric not in value or not g.holds(value)]
    for gate in failed:
        show.say(f"gate failed: {gate.explain(value) if gate.metric in value else 'no attack could be made'}")
    if failed:
        raise typer.Exit(1)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
