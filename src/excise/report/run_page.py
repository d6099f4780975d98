"""The pages of `excise erase`, `evaluate` and `demo`: which images, metrics, charts and commands they show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from excise.canvas import world
from excise.canvas.vocabulary import CANVAS
from excise.concepts.concept import TEMPLATES, fill
from excise.concepts.vocabulary import ORDINARY, ordinary_prompts
from excise.edits.edit import Edit
from excise.evaluation.catalog import METRICS, quantity
from excise.evaluation.result import Evaluated, Evaluation, measure
from excise.evaluation.verdict import PROVEN, told
from excise.families.base import Family, Progress
from excise.protocols.base import Target, asks
from excise.protocols.concept import ATTRIBUTE, NO_JUDGE, RETAINED
from excise.report.answers import Evidence, answers
from excise.report.attack_answers import untested
from excise.report.grid import heat
from excise.report.html import Answer, MetricRow, Page, Pair, Section, write
from excise.report.threshold_curves import threshold_charts
from excise.report.training_charts import training_blocks, training_charts, without_losses
from excise.support.counts import agreeing, counted
from excise.support.runs import EDIT_NAME
from excise.support.selection import evenly

PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 4.0
MOST_PAIRS = 12
RULES = (
    "each is held to its threshold at the unfavourable end of its interval; an interval that the threshold lies in "
    "gives 'Not sure', and 'Yes' on the first question takes that no picture is left over; the thresholds are the "
    "page's own, and gates of --require stand in run.json"
)


def _changes(paths: int) -> str:
    """What an edit of so many weights does.

    >>> _changes(1), _changes(32), _changes(0)
    ('1 weight matrix changes', '32 weight matrices change', 'it acts while the model draws')
    """
    if not paths:
        return "it acts while the model draws"
    return f"{counted(paths, 'weight matrix', 'weight matrices')} {agreeing(paths, 'changes', 'change')}"


@dataclass(frozen=True)
class Steps:
    """The commands that a page names for what it does not know.

    Attributes:
        load_options: how the model was loaded, as further options of every printed command.
        measure, attack: the commands that would measure the edit, and attack it; empty where none is named.
    """

    load_options: str = ""
    measure: str = ""
    attack: str = ""


def erase_page(
    family: Family,
    edit: Edit,
    model: str,
    out: Path,
    preserve: Sequence[str],
    advance: Progress | None,
    probe_images: Mapping[str, Any] | None = None,
    steps: Steps = Steps(),
) -> list[Pair]:
    """Write the report of `excise erase`, and return the image pairs on it.

    Args:
        advance: progress of drawing a few prompts before and after the edit; None draws none.
        probe_images: images that a trained method drew to choose blocks, by table and block.
        steps: the next commands.
    """
    target_prompts, retain_prompts = _preview_prompts(edit, preserve) if advance else ([], [])
    pairs = preview(family, edit, target_prompts + retain_prompts, advance) if advance else []
    record = edit.record
    names = [c.name for c in record.concepts]
    section = Section(
        title=", ".join(names),
        summary=f"Removed with {record.method} from {model}: {_changes(len(edit.paths))}{_joined(record.measured)}.",
        answers=answers(Evidence(names), untested(steps.attack), measure=steps.measure),
        targets=pairs[: len(target_prompts)],
        retained=pairs[len(target_prompts) :],
        curves=training_charts(record.measured),
        blocks=training_blocks(record.measured, probe_images or {}),
        record=without_losses(record.model_dump(mode="json")),
        commands=commands(model, out / EDIT_NAME, names[0], steps.load_options),
    )
    lead = "The edit was written but not yet verified: no judge has looked at the images on this page."
    write(Page(f"Without {', '.join(names)}", lead, [section], _facts(record.versions)), out / "report.html")
    return pairs


def _joined(measured: Mapping[str, Any]) -> str:
    """How several targets of a method that is defined for one came together."""
    alone = measured.get("targets")
    return f"; the method is defined for one target, so the {len(alone)} were trained alone and joined" if alone else ""


def preview(family: Family, edit: Edit, prompts: Sequence[str], advance: Progress | None) -> list[Pair]:
    """Draw the same prompts and seeds without and with the edit."""
    seeds = list(range(len(prompts)))
    total = 2 * len(prompts)

    def draw(done_before: int) -> list[Image.Image]:
        def step(done: float, _: int) -> None:
            if advance:
                advance(done_before + done, total)

        return family.sample(prompts, seeds, steps=PREVIEW_STEPS, guidance=PREVIEW_GUIDANCE, batch=8, progress=step)

    before = draw(0)
    with edit.apply(family):
        after = draw(len(prompts))
    return [Pair(p, b, a) for p, b, a in zip(prompts, before, after, strict=True)]


def evaluation_section(
    title: str,
    before: Evaluated | None,
    after: Evaluated,
    edit: Edit | None,
    commands_: list[tuple[str, str]],
    attacked: Answer | None = None,
) -> Section:
    """Return the section of one evaluation.

    Args:
        before: the untouched model on the same protocol, where it was evaluated.
        edit: the edit that was evaluated; its record and training charts are shown.
        commands_: (purpose, command line) pairs to print.
        attacked: whether the concepts come back under attack; None where nobody tried.
    """
    result = after.result
    target_pairs, retained_pairs = _pairs(before, after, after.targets) if before else ([], [])
    sides = [("before", before.result)] if before else []
    sides.append(("after" if edit else "this model", result))
    became: dict[str, int] = {}
    for counts in result.became.values():
        for label, count in counts.items():
            became[label] = became.get(label, 0) + count
    return Section(
        title=title,
        summary=summary(result),
        answers=answers(Evidence.of(result), attacked or untested()) if result.concepts else [],
        targets=target_pairs,
        retained=retained_pairs,
        metrics=_metric_rows(before, after),
        heats=[h for title, side in sides if (h := heat(side.shown, title))],
        became=became,
        thresholds=threshold_charts(result.sweep, result.protocol_summary["judge"]),
        curves=training_charts(edit.record.measured) if edit else [],
        record=without_losses(edit.record.model_dump(mode="json")) if edit else {},
        commands=commands_,
    )


def _metric_rows(before: Evaluated | None, after: Evaluated) -> list[MetricRow]:
    """A row for each metric of the evaluation; those of the untouched model alone only where there are no targets."""
    old = measure(before.result, after.targets) if before else {}
    new = after.result.metrics
    return [
        MetricRow(metric.title, metric.explanation, old.get(key), new.get(key), metric.unit)
        for key, metric in METRICS.items()
        if key in new or (key in old and not after.targets)
    ]


def _drawn(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the pictures were drawn, where that is known."""
    if not plan["steps"]:  # pictures of another program
        return [("sampler and seeds", "of the program that drew the pictures")]
    return [
        ("sampler", f"{counted(plan['steps'], 'step')}, {plan['sampler']} scheduler, guidance {plan['guidance']}"),
        ("seeds", "one for each image: the protocol's, or else from SHA-256 of protocol, prompt and index"),
    ]


def write_page(title: str, lead: str, sections: list[Section], result: Evaluation, path: Path) -> Path:
    """Write a page of evaluated sections, with all details of the protocol."""
    plan = result.protocol_summary
    second = f"; second judge: {plan['second']}, of another architecture and seed" if plan["second"] else ""
    facts = [
        ("model", result.model),
        ("protocol", f"{result.protocol}, hash {result.hash}"),
        *_drawn(plan),
        ("judge", plan["judge"] + second),
        ("intervals", "95 %: Wilson score for rates, bootstrap for H, drift and CLIP score"),
        *(("verdict", line) for line, _ in told(result.verdicts)),
        ("answers", RULES),
        *((f"{what}, by the protocol", note) for what, note in result.notes.items()),
    ]
    if result.protocol.startswith("canvas-"):
        limits = (
            "Canvas is a small built-in world. It ranks mechanisms and catches bugs; it does not say how a method "
            "scores on Stable Diffusion itself."
        )
        facts.append(("what this cannot tell", limits))
    if len(sections) == 1:
        judge = "judged by nobody" if plan["judge"] == NO_JUDGE else f"judged by {plan['judge']}"
        lead += f" {counted(len(result.shown), 'picture')} of protocol {result.protocol}, {judge}."
    return write(Page(title, lead, sections, facts), path)


def commands(model: str, edit: Path, concept: str, load_options: str = "") -> list[tuple[str, str]]:
    """Return (purpose, command line) pairs to undo, use and export an edit.

    Args:
        load_options: how the model is loaded, as further options of the commands.
    """
    file, name, prompt = shlex.quote(str(edit)), shlex.quote(model) + load_options, shlex.quote(concept)
    return [
        (
            "undo: the model itself is unchanged, so generate without the edit file",
            f"excise generate --model {name} --prompt {prompt} --out without-edit",
        ),
        ("use it", f"excise generate --model {name} --edit {file} --prompt {prompt} --out with-edit"),
        ("ship it: a LoRA that other programs load", f"excise export {file}{load_options} --out shipped"),
    ]


def attack_command(model: str, edit: str, concept: str, out: str, options: str = "") -> str:
    """Return the command that attacks an edit for a concept, and keeps what it finds beside the edit.

    Args:
        options: further options, that of the judge and those of the model.
    """
    words = f"--model {shlex.quote(model)}{options} --edit {shlex.quote(edit)} --concept {shlex.quote(concept)}"
    return f"excise attack {words} --require 'worst_back<={PROVEN:g}' --out {shlex.quote(out)}"


def _preview_prompts(edit: Edit, preserve: Sequence[str]) -> tuple[list[str], list[str]]:
    """Prompts that ask for the erased concepts, and prompts that ask for something else."""
    concepts = edit.record.concepts
    targets = [prompt for c in concepts[:4] for prompt in fill(TEMPLATES[c.kind][1:3], c.name)]
    names = list(preserve[:4])
    if not names and edit.record.vocabulary in CANVAS:
        names = [o for o in world.OBJECTS if o not in {c.name for c in concepts}][:4]
    if not names and edit.record.vocabulary == ORDINARY:
        return targets, evenly(ordinary_prompts([c.concept() for c in concepts]), 4)
    return targets, [f"a {n}" for n in names]


def _pairs(before: Evaluated, after: Evaluated, targets: Sequence[Target]) -> tuple[list[Pair], list[Pair]]:
    """Image pairs of target prompts and of other prompts, evenly chosen and matched by prompt and seed."""
    old = {(s.prompt, s.seed): i for i, s in enumerate(before.result.shown)}
    matched = [
        (i, s)
        for i, s in enumerate(after.result.shown)
        if s.group in ("grid", "erased", "kept", "target", *RETAINED) and (s.prompt, s.seed) in old
    ]
    on_target = [i for i, s in matched if s.group == "target" or asks(s.asked, targets)]
    others = [i for i, s in matched if i not in set(on_target)]

    def pair(i: int) -> Pair:
        shown = after.result.shown[i]
        note = f"judge: {', '.join(shown.saw.values())}" if shown.saw else ""
        if ATTRIBUTE in shown.saw:  # an open judge, which was asked for one name
            verb = "sees" if shown.right(ATTRIBUTE) else "does not see"
            note = f"judge: {verb} {shown.asked[ATTRIBUTE]}"
        return Pair(shown.prompt, before.images[old[shown.prompt, shown.seed]], after.images[i], note)

    return [pair(i) for i in evenly(on_target, MOST_PAIRS)], [pair(i) for i in evenly(others, MOST_PAIRS)]


def summary(result: Evaluation) -> str:
    """The main results in a few sentences."""
    m = {key: quantity(estimate["value"], METRICS[key].unit) for key, estimate in result.metrics.items()}
    names = ", ".join(result.concepts)
    sentences = []
    if "ua" in m:
        sentences.append(f"Of the images for prompts that ask for {names}, {m['ua']} no longer show it.")
    elif "acc_e" in m:
        sentences.append(f"Of the images for erased names, {m['acc_e']} still show the name.")
    if "ira" in m:
        sentences.append(f"On all other prompts, the target's own attribute is right in {m['ira']} of the images.")
    if "cra" in m:
        sentences.append(f"The other attribute is right in {m['cra']}.")
    if "acc_r" in m:
        sentences.append(f"Of the images for retained names, {m['acc_r']} show the name.")
    if not result.concepts:
        sentences.append("This is the model without a target.")
    elif not sentences:
        sentences.append("Only a part of the protocol was run.")
    seconds = sum(result.seconds.values())
    return " ".join([*sentences, f"{counted(len(result.shown), 'image')} in {seconds:.0f} s."])


def _facts(versions: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in versions.items()]
