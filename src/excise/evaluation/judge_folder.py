"""Judging pictures that any program drew, by the metrics of an evaluation."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from excise.concepts.concept import Concept, as_concepts, normalise_name
from excise.errors import ConceptError, JudgeError
from excise.evaluation.folder import Drawn, paired
from excise.evaluation.judging import of_canvas
from excise.evaluation.plan import OPEN, asking_only, concept_judges, fixed_judges
from excise.evaluation.result import Evaluated, Inquiry, Round
from excise.evaluation.verdicts import judged
from excise.families.drawing import Images
from excise.judges.base import Judge, OpenJudge
from excise.judges.named import is_named, judge_named
from excise.judges.raters import Raters
from excise.protocols import fixed_protocol
from excise.protocols.base import Item, Protocol, numbered
from excise.protocols.concept import ATTRIBUTE, GROUPS, IN_OTHER_WORDS, NAME, RETAINED
from excise.support.counts import counted
from excise.support.progress import Report, silent

PICTURES = "pictures"  # the name of a protocol made of a folder


def judge_pictures(
    pictures: Sequence[Drawn],
    concepts: Sequence[str | Concept] = (),
    *,
    before: Sequence[Drawn] = (),
    protocol: str | None = None,
    groups: Sequence[str] | None = None,
    judge: object | None = None,
    judge_weights: Path | None = None,
    say: Report = silent,
) -> Evaluated:
    """Measure pictures as `evaluate` measures those that it draws.

    Without a protocol a picture asks for a concept where its row of the listing says so, or its prompt names it; for
    another name where its row says that; else it is compared with its partner and not judged.

    Args:
        pictures: as `read_folder` returns them.
        concepts: that count as erased.
        before: pictures of the same prompts and seeds by the untouched model.
        protocol: whose prompts and seeds the pictures are; others are left aside.
        groups: of the protocol.
        judge, judge_weights: as in `evaluate`; pictures of the built-in world have their own judge.

    Raises:
        ConceptError: no picture asks for a concept, or the protocol does not know it.
        JudgeError: there is no judge, pictures have no partner in `before`, or the protocol asks for others.
    """
    named = as_concepts(concepts) if concepts else []
    if is_named(judge):
        judge = judge_named(judge, judge_weights)
    if protocol is None:
        plan = _plan(pictures, named)
        judges = concept_judges(
            of_canvas(plan.labels[ATTRIBUTE], (p.size for p in pictures)),
            plan,
            judge if judge is not None else judge_weights,
        )
        if not judges:
            raise JudgeError("no judge knows these pictures; name one with --judge (excise doctor --judges).")
        plan = asking_only(plan, judges[0])
    else:
        plan = fixed_protocol(protocol)
        judges = fixed_judges(plan, judge, judge_weights)
    plan = replace(
        plan, judge=judges[0].name, second=judges[1].name if len(judges) > 1 and plan.score != NAME else None
    )
    targets = tuple(plan.target_of(c.name) for c in named)
    items = plan.select(targets, groups)
    if protocol is None:
        picture_of = {id(item): picture for item, picture in zip(plan.items, pictures, strict=True)}
        chosen = [picture_of[id(item)] for item in items]
        partners = paired(before, chosen) if before else []
    else:
        chosen = _of_protocol(pictures, plan, items)
        partners = _of_protocol(before, plan, items) if before else []
    inquiry = Inquiry(plan, items, targets)
    _check_sizes(partners, chosen, plan.image_size)
    after = inquiry.measured(_round(plan, items, chosen, judges, say), model=str(chosen[0].path.parent))
    if before:
        after = inquiry.beside(after, _round(plan, items, partners, judges, say), weights=judge_weights, say=say)
    if isinstance(judges[0], Raters) and (agreement := judges[0].agreement()):
        metrics = {**after.result.metrics, "agreement": agreement.as_dict()}
        after = replace(after, result=after.result.model_copy(update={"metrics": metrics}))
    return after


def asking_pairs(
    pictures: Sequence[Drawn], before: Sequence[Drawn], concept: str | Concept
) -> list[tuple[Drawn, Drawn]]:
    """Return the pictures that ask for a concept, each with that of the untouched model.

    Raises:
        ConceptError, JudgeError: as `judge_pictures`.
    """
    named = as_concepts([concept])
    plan = _plan(pictures, named)
    partners = paired(before, pictures)
    rows = zip(plan.items, pictures, partners, strict=True)
    return [(after, old) for item, after, old in rows if item.asked.get(ATTRIBUTE) == named[0].name]


def _plan(pictures: Sequence[Drawn], concepts: Sequence[Concept]) -> Protocol:
    """The protocol that the pictures answer."""
    indices = numbered(p.prompt for p in pictures)
    items = [_item(picture, concepts, index) for picture, index in zip(pictures, indices, strict=True)]
    for c in concepts:
        if not any(i.asked.get(ATTRIBUTE) == c.name for i in items):
            raise ConceptError(
                f"no picture asks for '{c.name}': neither a prompt nor a row of the listing names it. Add a column "
                "'name' to the listing, or name the concept as the prompts do."
            )
    others = dict.fromkeys(i.asked[ATTRIBUTE] for i in items if ATTRIBUTE in i.asked)
    groups = tuple(dict.fromkeys(i.group for i in items))
    return Protocol(
        name=PICTURES,
        items=tuple(items),
        steps=0,
        guidance=0.0,
        judge=OPEN,
        score=NAME,
        labels={ATTRIBUTE: tuple(dict.fromkeys([*(c.name for c in concepts), *others]))},
        groups=groups,
        target_groups=groups,
        fixed_targets=tuple(c.name for c in concepts),
        notes={"pictures": "drawn elsewhere: nothing here knows by what sampler"},
    )


def _item(picture: Drawn, concepts: Sequence[Concept], index: int) -> Item:
    """What a picture is asked for."""
    said = picture.name if picture.name is not None else ""
    own = next((c for c in concepts if normalise_name(said) in map(normalise_name, c.words)), None)
    if picture.name is None:
        own = next((c for c in concepts if any(_names(picture.prompt, word) for word in c.words)), None)
    asked = own.name if own else picture.name
    group = picture.group or ("target" if own else RETAINED[-1])
    if group not in GROUPS:
        raise ConceptError(
            f"{picture.path.name} is of the group '{group}'; expected one of {', '.join(GROUPS)}, or name the protocol "
            "whose pictures these are (--protocol)."
        )
    about = own.name if own and group in IN_OTHER_WORDS else None
    return Item(group, picture.prompt, {ATTRIBUTE: asked} if asked else {}, index, about, picture.seed)


def _names(prompt: str, word: str) -> bool:
    """Whether a prompt holds a name as whole words."""
    return bool(re.search(rf"(?<!\w){re.escape(normalise_name(word))}(?!\w)", normalise_name(prompt)))


def _of_protocol(pictures: Sequence[Drawn], plan: Protocol, items: Sequence[Item]) -> list[Drawn]:
    """The pictures of the items, in their order."""
    by_key: dict[tuple[str, int | None], Drawn] = {p.key: p for p in pictures}
    wanted = [(i.prompt, plan.seed(i)) for i in items]
    missing = [key for key in wanted if key not in by_key]
    if missing:
        prompt, seed = missing[0]
        raise JudgeError(
            f"{counted(len(missing), 'picture')} of {len(items)} that {plan.name} asks for are not there, the first of "
            f"them '{prompt}' with seed {seed}; draw what `excise protocols {plan.name} --prompts FILE` lists."
        )
    return [by_key[key] for key in wanted]


def _round(
    plan: Protocol, items: Sequence[Item], pictures: Sequence[Drawn], judges: Sequence[Judge | OpenJudge], say: Report
) -> Round:
    """Judge pictures."""
    began = time.perf_counter()
    images = Images([p.path for p in pictures])
    shown = judged(items, [(i.prompt, plan.seed(i)) for i in items], images, judges, say)
    return Round(images, shown, {"judge": round(time.perf_counter() - began, 3)})


def _check_sizes(before: Sequence[Drawn], after: Sequence[Drawn], side: int | None) -> None:
    """Refuse pictures of another size than a protocol's, and partners of two, which cannot be compared by pixel."""
    for other in after:
        if side and other.size != (side, side):
            raise JudgeError(f"{other.path} is {other.measures}; the protocol judges images of {side} x {side}.")
    for one, other in zip(before, after, strict=bool(before)):
        if one.size != other.size:
            raise JudgeError(
                f"{one.path} is {one.measures} and {other.path} {other.measures}; draw both folders in one size."
            )
