"""excise attack: try to recover an erased concept from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, finished

if TYPE_CHECKING:
    from excise.attacks.suite import SuiteOptions
    from excise.cli.gates import Gate
    from excise.concepts.concept import Concept


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """The options of `excise attack`."""

    concept: Annotated[str, typer.Option("--concept", "-c", help="The erased concept to recover.")]
    out: Annotated[
        Path,
        typer.Option(help="Run folder to write: run.json, report.html, attacks/. An interrupted run resumes there."),
    ]
    model: o.ModelOption = "canvas-sd"
    edit: o.EditsOption = None
    suite: Annotated[str, typer.Option(help="The suite of attacks: quick, standard or full.")] = "quick"
    only: Annotated[
        Optional[list[str]], typer.Option("--attack", help="Run only this attack of the suite; repeatable.")
    ] = None
    oracle: Annotated[
        Optional[str],
        typer.Option(help="A model never trained on the concept, attacked in the same way for comparison."),
    ] = None
    base: Annotated[
        Optional[str],
        typer.Option(help="The untouched model, if --model was erased by other means than --edit."),
    ] = None
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="Name of a judge (excise doctor --judges), or folder of a CLIP model, that judges the images. "
            "Built-in models have their own."
        ),
    ] = None
    other: Annotated[
        Optional[list[str]], typer.Option(help="Another concept of the same kind as the target; repeatable.")
    ] = None
    kind: o.KindOption = None
    synonym: Annotated[
        Optional[list[str]],
        typer.Option(help="A synonym of the concept, which some attacks use in prompts; repeatable."),
    ] = None
    ask: Annotated[
        Optional[Path], typer.Option(help="A file of your own prompts that ask for the target, one a line.")
    ] = None
    images: Annotated[
        Optional[int], typer.Option(help="Number of images for each test prompt; by default that of the suite.")
    ] = None
    tests: Annotated[Optional[int], typer.Option(help="Number of test prompts; by default that of the suite.")] = None
    settings: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="A setting for every attack that has it, key=value; repeatable."),
    ] = None
    seed: Annotated[int, typer.Option(help="Random seed of searches and images.")] = 0
    require: Annotated[
        Optional[list[str]],
        typer.Option(
            help="A gate such as 'worst_gap<=0.3', held against the upper end of the 95 % interval; exit status 1 if "
            "it fails; repeatable."
        ),
    ] = None
    allow_other_base: o.OtherBaseOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source

    def gates(self) -> list[Gate]:
        """The gates of `--require`.

        Raises:
            SettingError: a gate on worst_gap without `--oracle`.
        """
        from excise.cli.gates import parse_all
        from excise.errors import SettingError
        from excise.evaluation.catalog import gateable_keys

        gates = parse_all(self.require or [], gateable_keys("attack"))
        if self.oracle is None and any(gate.metric == "worst_gap" for gate in gates):
            raise SettingError(
                "worst_gap needs a model that was never trained on the concept: give one with --oracle, or require "
                "worst_back, the share of prompts on which the strongest attack recovers the concept."
            )
        return gates


@o.command
def attack(options: AttackOptions) -> None:
    """Try to recover a concept from a model, next to controls with the same budget.

    Kind and synonyms are those in the edit's record, unless they are given.

    Example: excise attack --model canvas-sd --edit runs/cat/edit.safetensors --concept cat --out runs/cat-attacked
    """
    for model in (options.model, options.base, options.oracle):  # before anything large is imported
        options.source.check(model)
    o.check_judge(options.judge)
    request = asked("attack", options)
    finished(options.out, request, force=options.force)

    from excise.attacks.suite import attack as run_suite
    from excise.attacks.suite import check as check_suite
    from excise.attacks.suite import estimate, target_of
    from excise.cli import show
    from excise.cli.evidence import keep_attack, note_gates
    from excise.cli.gates import check
    from excise.edits.verified import checks_of
    from excise.families.built_in import names_built_in
    from excise.report.attack_page import document, write_page
    from excise.support.runs import edit_path, run_folder, write_run

    gates, settings = options.gates(), o.parse_settings(options.settings or [])
    edits, prompts = o.load_edits(options.edit), o.own_prompts(options.ask)
    canvas = names_built_in(options.model) or names_built_in(options.base)
    target = target_of(options.concept, edits, options.kind, options.synonym or (), canvas=canvas)
    for name in (options.model, options.base):
        o.warn_outside_canvas(name, [options.concept, *(options.other or [])], o.SHOWN)
    family = options.source.load(options.model)
    suite = _suite(options, settings, prompts)
    check_suite(family, target, edits, suite)
    minutes = max(1, round(estimate(family, suite) / 60))
    show.say(f"about {minutes} min for the suite '{options.suite}' here")
    with run_folder(options.out):
        with show.stages() as say:
            attacked = run_suite(family, target, edits, suite, say)
        result = document(attacked)
        checks = checks_of(edit_path(options.edit[0])) if len(options.edit or []) == 1 and options.edit else ()
        write_page(attacked, options.model, options.concept, options.edit or [], options.suite, options.out, checks)
        told = _request(options, target, settings, prompts)
        write_run(options.out, "attack", {**told, **result, **request.entries()})
    _print(options, result)
    top = attacked.worst
    metrics = {name: e.as_dict() for name, e in (("worst_gap", top.gap), ("worst_back", top.back)) if e}
    files = [str(edit_path(edit)) for edit in options.edit or []]
    keep_attack(files, told, attacked, gates, metrics, other_base=options.allow_other_base)
    note_gates(options.out, gates, metrics)
    check(gates, metrics, missing="no attack could be run")


def _suite(options: AttackOptions, settings: dict[str, Any], prompts: list[str]) -> SuiteOptions:
    """The suite to run, with the models to compare with."""
    from excise.attacks.suite import SuiteOptions

    return SuiteOptions(
        suite=options.suite,
        names=options.only or (),
        settings=settings,
        images=options.images,
        tests=options.tests,
        base=options.source.load(options.base) if options.base else None,
        oracle=options.source.load(options.oracle) if options.oracle else None,
        judge=options.judge,
        others=options.other or (),
        prompts=prompts,
        allow_other_base=options.allow_other_base,
        seed=options.seed,
        folder=options.out,
        cache=o.image_cache(None, no_cache=False),
    )


def _request(options: AttackOptions, target: Concept, settings: dict[str, Any], prompts: list[str]) -> dict[str, Any]:
    """The request as `run.json` holds it."""
    return {
        "model": options.model,
        "edits": options.edit or [],
        "concept": options.concept,
        "suite": options.suite,
        "kind": target.kind,
        "synonyms": list(target.synonyms),
        "oracle": options.oracle,
        "base": options.base,
        "others": options.other or [],
        "asked": prompts,
        "settings": settings,
        "seed": options.seed,
    }


def _print(options: AttackOptions, result: dict[str, Any]) -> None:
    from excise.cli import show

    if options.as_json:
        show.print_json(result)
        return
    columns = ("any_of_n", "control", "oracle", "gap")
    rows = [(a["name"], *(_share(a[column]) for column in columns), a["why"]) for a in result["attacks"]]
    show.table(rows, ("attack", "recovered", "control", "oracle", "gap", ""))
    show.say(f"report: {options.out / 'report.html'}")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
