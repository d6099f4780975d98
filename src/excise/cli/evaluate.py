"""excise evaluate: run a protocol on a model, and report the metrics."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, finished
from excise.errors import SettingError
from excise.support.runs import edit_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from excise.cli.gates import Gate
    from excise.edits.edit import Edit
    from excise.evaluation.result import Evaluated
    from excise.families.base import Family
    from excise.protocols import Protocol
    from excise.report.html import Answer


QUESTIONS = {
    "concept": ("--ask", "--pictures", "--preserve", "--preserve-file"),
    "emma": ("--pictures", "--preserve", "--preserve-file"),
    "hub": ("--pictures",),
    "eraseeval": ("--pictures",),
}
"""The options by which the protocols for a request ask."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `excise evaluate`."""

    model: o.ModelOption = "canvas-sd"
    edit: o.EditsOption = None
    protocol: Annotated[
        Optional[str],
        typer.Option(
            help="The protocol, which fixes prompts, seeds, sampler and judge; see excise protocols. By default "
            "canvas-mini for names of the built-in models, otherwise concept, which is made for the concepts."
        ),
    ] = None
    concept: Annotated[
        Optional[list[str]], typer.Option("--concept", "-c", help="An erased concept, the target; repeatable.")
    ] = None
    preserve: o.PreserveOption = None
    preserve_file: o.PreserveFileOption = None
    ask: Annotated[
        Optional[Path],
        typer.Option(help="Protocol concept: a file of your own prompts that ask for the concept, one a line."),
    ] = None
    pictures: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            help="Protocols concept, emma, hub, eraseeval: pictures of each concept, or of each kind of its prompts. "
            "By default the protocol's own number; for concept 10, or as many as --require needs.",
        ),
    ] = None
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="Name of a judge (excise doctor --judges), or for the protocol concept the folder of a CLIP model. "
            "Built-in models have their own; without one, the images themselves and the drift are reported."
        ),
    ] = None
    group: Annotated[
        Optional[list[str]], typer.Option(help="Run only this part of the protocol, for example grid; repeatable.")
    ] = None
    out: Annotated[Optional[Path], typer.Option(help="Run folder to write: run.json, report.html, images/.")] = None
    require: o.RequireOption = None
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
    bfloat16: Annotated[
        Optional[bool],
        typer.Option(
            help="Let denoiser and decoder compute in bfloat16. By default where it gains time: on a processor with "
            "matrix units for it, for a model in single precision without hooks."
        ),
    ] = None
    cache: o.CacheOption = None
    no_cache: o.NoCacheOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source

    @property
    def compares(self) -> bool:
        """Whether the untouched model is drawn too."""
        return bool(self.edit) if self.untouched is None else self.untouched

    @property
    def judge_folder(self) -> Path | None:
        """The folder of the judge, by either option."""
        return self.judge or self.judge_weights

    def check_questions(self, protocol: str) -> None:
        """Refuse options that a protocol does not ask by.

        Raises:
            SettingError: one was given.
        """
        asks_by = QUESTIONS.get(protocol, ())
        given = {
            "--ask": self.ask, "--pictures": self.pictures, "--preserve": self.preserve,
            "--preserve-file": self.preserve_file,
        }  # fmt: skip
        if names := [n for n, value in given.items() if value is not None and value != [] and n not in asks_by]:
            fixed = "has prompts of its own" if asks_by else "asks the same of every model"
            raise SettingError(
                f"{protocol} {fixed}, so {' and '.join(names)} cannot change it; add --protocol concept for questions "
                "of your own."
            )

    def cache_key(self, request: _Request) -> str | None:
        """The key of the result in the cache; None where the model is not a local file or folder, or none is kept."""
        from excise.evaluation import result_cache
        from excise.judges.named import judge_key
        from excise.support.processor import multiplies_bfloat16

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
        newer["bfloat16"] = (multiplies_bfloat16() or None) if self.bfloat16 is None else self.bfloat16
        newer["judge"] = judge_key(self.judge) if self.judge else None
        options |= {name: value for name, value in newer.items() if value is not None}
        edits = [str(edit_path(edit)) for edit in self.edit or []]
        if not request.key:
            return None
        return result_cache.request_key(self.model, edits, request.key, options)


@o.command
def evaluate(options: EvaluateOptions) -> None:
    """Measure what a model draws; with --concept, how well the concept is erased and the rest retained.

    Example: excise evaluate --model canvas-sd --edit runs/cat/edit.safetensors --concept cat --out runs/cat-evaluation
    """
    from excise.cli import evidence, gates, measured
    from excise.evaluation import result_cache

    required = gates.parse_all(options.require or [])
    options.source.check(options.model)
    o.check_judge(options.judge)
    o.check_weights(options.judge_weights)
    request = _request(options, required)
    if options.out is not None:
        finished(options.out, asked("evaluate", options), force=options.force)
    cache = o.image_cache(options.cache, options.no_cache)
    key = options.cache_key(request)
    document = None if options.force else result_cache.find(cache, key, options.out)
    if document is None:
        o.warn_outside_canvas(options.model, request.concepts, o.SHOWN)
        o.warn_outside_canvas(options.model, options.preserve or [], o.SHOWN)
        document = _run(options, request, required, cache, key)
        result_cache.keep(cache, key, document)
    measured.print_evaluation(document, options.out, as_json=options.as_json)
    files = [str(edit_path(edit)) for edit in options.edit or []]
    evidence.keep_evaluation(files, document, required, other_base=options.allow_other_base)
    evidence.note_gates(options.out, required, document["metrics"])
    measured.check_gates(required, document)
    if not options.as_json:
        _print_next(options, request, document, required)


def _print_next(
    options: EvaluateOptions, request: _Request, document: dict[str, Any], required: Sequence[Gate]
) -> None:
    """Say which gates passed; where the concepts are verified, print the command that ships the edit."""
    from excise.cli import show
    from excise.cli.making import free_folder

    if required:
        show.say(f"gates passed: {', '.join(gate.text for gate in required)}")
    statuses = {v["status"] for v in document["verdicts"]}
    edits = options.edit or []
    proven = "not verifiable" not in statuses if required else statuses == {"verified"}
    if len(edits) == 1 and not request.edits[0].hooks and proven:
        words = f"{shlex.quote(edits[0])} --model {shlex.quote(options.model)}{options.source.given()}"
        show.say(f"ship:   excise export {words} --out {free_folder('shipped')}")


@dataclass(frozen=True)
class _Request:
    """What is evaluated, by what protocol.

    Attributes:
        fixed: the protocol, where it does not depend on the model. protocol: its name. key: a digest of what it asks.
        own: prompts of the user's. pictures: of each concept. others: fewest pictures of other names.
    """

    edits: list[Edit]
    concepts: list[str]
    fixed: Protocol | None
    protocol: str
    key: str
    preserve: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    pictures: int | None = None
    others: int = 0


def _request(options: EvaluateOptions, required: Sequence[Gate]) -> _Request:
    """Read and check everything that needs no model, before a folder is made.

    Raises:
        ConceptError: the protocol cannot judge a concept.
        SettingError: an option of the protocol `concept` with another one, or a gate that no images can pass.
    """
    from excise.cli import gates
    from excise.evaluation.plan import default_protocol
    from excise.families.built_in import names_canvas
    from excise.protocols import FOR_A_REQUEST, PROTOCOLS
    from excise.protocols.concept import NAME, OTHERS, PICTURES
    from excise.support.digests import short_digest

    edits, concepts = o.load_edits(options.edit), options.concept or []
    name = options.protocol or default_protocol(names_canvas(options.model), concepts, edits)
    options.check_questions(name)
    if name not in FOR_A_REQUEST:
        plan: Protocol = PROTOCOLS.load(name)()
        targets = [plan.target_of(c) for c in concepts or (plan.fixed_targets if edits else ())]
        gates.check_possible(required, plan, targets, options.group)
        return _Request(edits, concepts, plan, name, plan.hash)
    preserve = o.names_to_preserve(options.preserve, options.preserve_file)
    own = o.own_prompts(options.ask)
    count = len(concepts) or max(1, len({c.name for e in edits for c in e.record.concepts}))
    pictures = options.pictures
    if name == NAME and pictures is None:
        pictures = gates.pictures_for(required, ("ua", "ua_relative"), PICTURES, count)
    others = gates.pictures_for(required, ("ira", "ira_relative"), OTHERS)
    questions = [NAME, concepts, preserve, own, pictures, others, str(options.judge)]
    # Protocols that read files have no key: what is in the files is known when the protocol is made.
    key = short_digest(questions) if name == NAME else ""
    return _Request(edits, concepts, None, name, key, tuple(preserve), tuple(own), pictures, others)


def _plan(options: EvaluateOptions, request: _Request, required: Sequence[Gate], family: Family) -> Protocol:
    """The protocol of the request on this model, whose gates can pass."""
    from excise.cli import gates
    from excise.evaluation.plan import concept_plan
    from excise.families.built_in import is_built_in

    if request.fixed is not None:
        return request.fixed
    plan = concept_plan(
        family,
        request.concepts,
        request.edits,
        preserve=request.preserve,
        own=request.own,
        pictures=request.pictures,
        others=request.others,
        judged=options.judge_folder is not None or is_built_in(family),
        protocol=request.protocol,
    )
    gates.check_possible(required, plan, [plan.target_of(c) for c in plan.fixed_targets], options.group)
    return plan


def _run(
    options: EvaluateOptions, request: _Request, required: Sequence[Gate], cache: Path | None, key: str | None
) -> dict[str, Any]:
    """Run the protocol, write the run folder, and return the document of `--json`."""
    from excise.cli import show
    from excise.evaluation.evaluate import evaluate as run_protocol
    from excise.support.runs import run_folder

    family = options.source.load(options.model) if request.fixed is None else None
    plan = request.fixed if family is None else _plan(options, request, required, family)
    with run_folder(options.out) if options.out is not None else nullcontext():
        family = family or options.source.load(options.model)
        _say_cost(options, request, plan, family)
        with show.stages() as say:
            evaluated = run_protocol(
                family,
                request.concepts,
                edits=request.edits,
                protocol=plan,
                groups=options.group,
                untouched=options.compares,
                judge=options.judge,
                judge_weights=options.judge_weights,
                allow_other_base=options.allow_other_base,
                model_name=options.model,
                batch=options.batch,
                bfloat16=options.bfloat16,
                cache=cache,
                say=say,
            )
        if options.out is not None:
            _write(options, options.out, evaluated, request.edits, key)
    return evaluated.result.model_dump(mode="json", exclude={"shown"})


def _say_cost(options: EvaluateOptions, request: _Request, plan: Protocol | None, family: Family) -> None:
    """Say before drawing how many pictures that is and how long it takes, where they are many."""
    from excise.cli import show
    from excise.evaluation.cost import drawing_cost

    if plan is None:
        return
    names = request.concepts or (plan.fixed_targets if request.edits else ())
    targets = [plan.target_of(name) for name in names]
    half = False if any(edit.hooks for edit in request.edits) else options.bfloat16
    sentence = drawing_cost(family, plan, targets, options.group, untouched=options.compares, bfloat16=half)
    if sentence:
        show.say(sentence)


def _write(options: EvaluateOptions, out: Path, evaluated: Evaluated, edits: list[Edit], key: str | None) -> None:
    """Write the run folder: images, report, and last run.json, which marks the folder as complete."""
    from excise.report.run_page import commands, evaluation_section, write_page
    from excise.support.runs import write_images, write_run

    result = evaluated.result
    write_images(out, [f"{i:04d}" for i in range(len(evaluated.images))], evaluated.images)
    title = f"{result.model} without {', '.join(result.concepts)}" if result.concepts else result.model
    ship = []
    if len(edits) == 1 and result.concepts and not edits[0].hooks:
        file = edit_path((options.edit or [""])[0])
        ship = commands(options.model, file, result.concepts[0], options.source.given())
    edit, attack = edits[0] if edits else None, _attacked(options, out, result.concepts)
    section = evaluation_section("Results", evaluated.before, evaluated, edit, ship, attack)
    write_page(title, "Measured by excise evaluate.", [section], result, out / "report.html")
    entries = {"edits": options.edit or [], "request": key, **asked("evaluate", options).entries()}
    write_run(out, "evaluate", {**result.model_dump(mode="json"), **entries})


def _attacked(options: EvaluateOptions, out: Path, concepts: Sequence[str]) -> Answer | None:
    """What earlier attacks on the edits as they are applied found, or the command that would attack the only one."""
    from excise.edits.verified import checks_of
    from excise.families.built_in import names_built_in
    from excise.report.attack_answers import attacked_before
    from excise.report.run_page import attack_command
    from excise.support.digests import file_digest

    files = options.edit or []
    if not files or not concepts:
        return None
    judge = "" if names_built_in(options.model) else f" --judge {shlex.quote(str(options.judge_folder or 'FOLDER'))}"
    more = f"{judge}{options.source.given()}"
    commands = {
        name: attack_command(options.model, files[0], name, f"{out}-attacked{f'-{i}' if i else ''}", more)
        for i, name in enumerate(concepts)
        if len(files) == 1
    }
    beside = [file_digest(edit_path(file)) for file in files[1:]]
    return attacked_before(checks_of(edit_path(files[0])), concepts, options.model, commands, beside)
