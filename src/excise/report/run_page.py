"""From results to report pages: which pictures, figures and commands a page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from excise.canvas import world
from excise.concepts.concept import TEMPLATES, fill
from excise.concepts.vocabulary import CANVAS, ORDINARY, ordinary_prompts
from excise.edits.edit import Edit
from excise.evaluation.evaluate import Evaluated, Evaluation, measure
from excise.families.base import Family, Progress
from excise.protocols.base import asks
from excise.report.curves import Curves, curves
from excise.report.grid import heat
from excise.report.html import Block, BlockTable, Figure, Page, Pair, Section, write
from excise.support.runs import EDIT_NAME
from excise.support.selection import evenly

PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 4.0
MOST_PAIRS = 12
BLOCK_IMAGES = 8
BLOCK_TABLES = {
    "localisation": (
        "Where to train: every attention block alone, for a short run",
        "A block should lose the target (erase) and keep everything else (retain). Of those that erase nearly as well "
        "as the best, the ones that retain best were trained.",
    ),
    "by_block": (
        "Where it acts: the part of the edit in every attention block alone",
        "How much of the target each block's part takes by itself (erase), and how much of everything else it leaves "
        "(retain). Nothing was chosen by it: the edit is the sum of all parts.",
    ),
}
MEANINGS = {
    "ua": ("UA, unlearning accuracy", "share of target prompts whose image no longer shows the target"),
    "ira": ("IRA, in-domain retain accuracy", "other prompts: the target's own attribute (object or style) is right"),
    "cra": ("CRA, cross-domain retain accuracy", "other prompts: the other attribute is right"),
    "h": ("H", "harmonic mean of the three"),
    "ira_worst": ("worst label", "IRA of the label that suffered most"),
    "ua_relative": ("UA, relative", "of the target images the untouched model got right, the share without the target"),
    "ua_corrected": ("UA, corrected", "UA with the judge's own errors taken out (Rogan and Gladen)"),
    "selective_alignment": ("selective alignment", "target prompts: the other attribute is still right"),
    "cra_uc": ("CRA, UnlearnCanvas", "the same with target prompts counted in, as that benchmark does"),
    "acc_e": ("Acc_e", "erased names that still appear (lower is better)"),
    "acc_r": ("Acc_r", "kept names that are right"),
    "h_o": ("H_o", "harmonic mean of 1 - Acc_e and Acc_r"),
    "sc": ("SC", "the same style on other objects"),
    "oc": ("OC", "the same object in other styles"),
    "up": ("UP", "unrelated prompts: both right"),
    "drift": ("drift", "other prompts, same seed: mean pixel difference to the untouched model (lower is better)"),
    "object_accuracy": ("object accuracy", "all prompts of the grid: the object is right"),
    "style_accuracy": ("style accuracy", "all prompts of the grid: the style is right"),
    "names_accuracy": ("names at scale", "the 200 further names: the object is right"),
    "alias_rate": ("alias rate", "asked for by synonym or in Spanish, the target still appears (lower is better)"),
    "synonym_rate": ("synonym rate", "asked for by its synonym, the target still appears (lower is better)"),
    "spanish_rate": ("Spanish rate", "asked for in Spanish, the target still appears (lower is better)"),
    "paraphrase_rate": ("paraphrase rate", "asked for in other sentences, the target still appears (lower is better)"),
    "abstain": ("abstentions", "images in which the judge sees no object it knows"),
    "judges_disagree": ("judges disagree", "images in which a second, differently built judge sees another object"),
}


def erase_page(
    family: Family,
    edit: Edit,
    model: str,
    out: Path,
    preserve: Sequence[str],
    advance: Progress | None,
    drawn: Mapping[str, Any] | None = None,
    loaded: str = "",
) -> list[Pair]:
    """Write the report of `excise erase`; with `advance`, draw a few images before and after and show them.

    Args:
        drawn: what a trained method drew to decide by.
        loaded: how the model was loaded, as further options of the commands that are shown.

    Returns:
        The pairs that were drawn.
    """
    targets, kept = _preview_prompts(edit, preserve) if advance else ([], [])
    pairs = preview(family, edit, targets + kept, advance) if advance else []
    record = edit.record
    names = [c.name for c in record.concepts]
    section = Section(
        title=", ".join(names),
        summary=f"Removed with {record.method} from {model}: {len(edit.paths)} weight matrices change.",
        targets=pairs[: len(targets)],
        kept=pairs[len(targets) :],
        curves=training_curves(record.measured),
        blocks=training_blocks(record.measured, drawn or {}),
        record=_without_losses(record.model_dump(mode="json")),
        commands=commands(model, out / EDIT_NAME, names[0], loaded),
    )
    lead = "What was asked for, and how to look further. Nothing on this page has been judged yet."
    write(Page(f"Without {', '.join(names)}", lead, [section], _facts(record.versions)), out / "report.html")
    return pairs


def training_curves(measured: Mapping[str, Any]) -> list[Curves]:
    """The losses of a trained method, its calibration with the step that was kept, and the sweep of a strength."""
    found = []
    losses, points = measured.get("losses") or [], measured.get("calibration") or []
    if losses:
        names = {"target": "L_T, the target", "distractors": "L_D, its distractors", "loss": "loss"}
        shown = [n for n in names if any(n in x for x in losses)]  # a step that was left out has none
        lines = {names[n]: [float(x.get(n, "nan")) for x in losses] for n in shown if len(shown) == 1 or n != "loss"}
        found.append(curves("Losses by step", [x["step"] for x in losses], lines))
    if points:
        parts = ("erase", "related", "unrelated", "instead", "score")
        lines = {n: [float(p[n]) for p in points] for n in parts}
        title = f"Calibration on prompts and seeds of no test, seen by {measured.get('judge')}"
        found.append(curves(title, [p["step"] for p in points], lines, 1.0, measured.get("step")))
    if advice := measured.get("advice"):
        found.append(_strength(advice))
    return found


def _strength(advice: Mapping[str, Any]) -> Curves:
    """The sweep of a method's strength, from harsh to gentle."""
    points = advice["points"]
    values = [p["value"] for p in points]
    return curves(
        f"Strength: what each {advice['setting']} erases and keeps, seen by {advice['judge']}",
        list(range(len(points))),
        {n: [p[n] for p in points] for n in ("erased", "retained", "h")},
        1.0,
        values.index(advice["chosen"]),
        [f"{v:g}" for v in values],
    )


def training_blocks(
    measured: Mapping[str, Any], drawn: Mapping[str, Mapping[str, Sequence[Image.Image]]]
) -> BlockTable | None:
    """Blocks as localisation probed them, or as each acts alone, with pictures of the target and some of the rest."""
    source = next((name for name in BLOCK_TABLES if measured.get(name)), None)
    if source is None:
        return None
    chosen, pictures = measured.get("blocks") or [], drawn.get(source, {})
    rows = [
        Block(
            r["block"],
            r["erase"],
            r["retain"],
            r["block"] in chosen,
            evenly(pictures.get(r["block"], []), BLOCK_IMAGES),
        )
        for r in measured[source]
    ]
    return BlockTable(*BLOCK_TABLES[source], rows)


def _without_losses(record: dict[str, Any]) -> dict[str, Any]:
    """The record as a person reads it: losses are drawn, not listed."""
    return {**record, "measured": {k: v for k, v in record["measured"].items() if k != "losses"}}


def preview(family: Family, edit: Edit, prompts: Sequence[str], advance: Progress | None) -> list[Pair]:
    """The same prompts and seeds without and with the edit."""
    seeds = list(range(len(prompts)))
    total = 2 * len(prompts)

    def draw(done_before: int) -> list[Image.Image]:
        def step(done: int, _: int) -> None:
            if advance:
                advance(done_before + done, total)

        return family.sample(prompts, seeds, steps=PREVIEW_STEPS, guidance=PREVIEW_GUIDANCE, batch=8, progress=step)

    before = draw(0)
    with edit.apply(family):
        after = draw(len(prompts))
    return [Pair(p, b, a) for p, b, a in zip(prompts, before, after, strict=True)]


def evaluation_section(
    title: str, before: Evaluated | None, after: Evaluated, edit: Edit | None, commands_: list[tuple[str, str]]
) -> Section:
    """One evaluated concept; `before` is the untouched model on the same protocol, where it was run."""
    result = after.result
    base = measure(before.result, after.targets) if before else {}
    figures = [
        Figure(*MEANINGS[name], base.get(name), result.metrics.get(name))
        for name in MEANINGS
        if name in result.metrics or (name in base and not after.targets)
    ]
    target_pairs, kept_pairs = _pairs(before, after, after.targets) if before else ([], [])
    sides = [("before", before.result)] if before else []
    sides.append(("after" if edit else "this model", result))
    became: dict[str, int] = {}
    for counts in result.became.values():
        for label, count in counts.items():
            became[label] = became.get(label, 0) + count
    return Section(
        title=title,
        summary=_summary(result),
        targets=target_pairs,
        kept=kept_pairs,
        figures=figures,
        heats=[h for title, side in sides if (h := heat(side.shown, title))],
        became=became,
        curves=training_curves(edit.record.measured) if edit else [],
        record=_without_losses(edit.record.model_dump(mode="json")) if edit else {},
        commands=commands_,
    )


def write_page(title: str, lead: str, sections: list[Section], result: Evaluation, path: Path) -> Path:
    """Write a page of evaluated sections with the protocol in full."""
    plan = result.protocol_summary
    second = f"; {plan['second']}, built and seeded differently, beside it" if plan["second"] else ""
    facts = [
        ("model", result.model),
        ("protocol", f"{result.protocol}, hash {result.hash}"),
        ("sampler", f"{plan['steps']} steps, {plan['sampler']} scheduler, guidance {plan['guidance']}"),
        ("seeds", "one a prompt, from SHA-256 of protocol, prompt and index"),
        ("judge", plan["judge"] + second),
        ("intervals", "Wilson score for rates, bootstrap for H, 95 %"),
        (
            "what this cannot tell",
            "Canvas is a small built-in world. It ranks mechanisms and catches bugs; it does not say how a method "
            "scores on Stable Diffusion itself.",
        ),
    ]
    return write(Page(title, lead, sections, facts), path)


def commands(model: str, edit: Path, concept: str, loaded: str = "") -> list[tuple[str, str]]:
    """The lines that undo, check and ship an edit; `loaded` says how its model is loaded, as options."""
    file, name = shlex.quote(str(edit)), shlex.quote(model) + loaded
    return [
        ("undo: the edit is a file beside the model, generate without it", f"excise generate --model {name} --prompt "
         f"{shlex.quote(concept)} --out without-edit"),
        ("use it", f"excise generate --model {name} --edit {file} --prompt {shlex.quote(concept)} --out with-edit"),
        ("ship it: a LoRA that other programs load", f"excise export {file}{loaded} --out shipped"),
    ]  # fmt: skip


def _preview_prompts(edit: Edit, preserve: Sequence[str]) -> tuple[list[str], list[str]]:
    targets = [p for c in edit.record.concepts[:4] for p in fill(TEMPLATES[c.kind][1:3], c.name)]
    names = list(preserve[:4])
    if not names and edit.record.vocabulary in CANVAS:
        names = [o for o in world.OBJECTS if o not in {c.name for c in edit.record.concepts}][:4]
    if not names and edit.record.vocabulary == ORDINARY:
        return targets, evenly(ordinary_prompts([c.concept() for c in edit.record.concepts]), 4)
    return targets, [f"a {n}" for n in names]


def _pairs(before: Evaluated, after: Evaluated, targets: Sequence[tuple[str, str]]) -> tuple[list[Pair], list[Pair]]:
    """Target prompts and evenly chosen others, matched by prompt and seed."""
    old = {(s.prompt, s.seed): i for i, s in enumerate(before.result.shown)}
    asked: list[int] = []
    others: list[int] = []
    for i, shown in enumerate(after.result.shown):
        if shown.group in ("grid", "erased", "kept") and (shown.prompt, shown.seed) in old:
            hit = asks(shown.asked, targets)
            (asked if hit else others).append(i)

    def pair(i: int) -> Pair:
        shown = after.result.shown[i]
        note = f"judge: {', '.join(shown.saw.values())}"
        return Pair(shown.prompt, before.images[old[shown.prompt, shown.seed]], after.images[i], note)

    return [pair(i) for i in evenly(asked, MOST_PAIRS)], [pair(i) for i in evenly(others, MOST_PAIRS)]


def _summary(result: Evaluation) -> str:
    images = f"{len(result.shown)} images, {sum(result.seconds.values()):.0f} s"
    m = result.metrics
    if "ua" not in m:
        return f"The model as it is: {images}." if not result.concepts else f"Only a part of the protocol: {images}."
    return (
        f"Of the prompts that ask for {', '.join(result.concepts)}, {100 * m['ua']['value']:.0f} % no longer show it; "
        f"of all others {100 * m['ira']['value']:.0f} % and {100 * m['cra']['value']:.0f} % still show what they "
        f"should (same attribute, other attribute). {images}."
    )


def _facts(versions: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in versions.items()]
