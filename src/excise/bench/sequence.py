"""Deleting concepts one after another on any model, and asking for all earlier ones again after each deletion.

A run folder holds `edits/` (one file a step) and `steps/` (one JSON file a step), so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.bench import sequence_result as results
from excise.bench.sequence_folder import EDITS, STEPS, TRAINING, clear, remove_others
from excise.concepts.concept import Concept
from excise.concepts.vocabulary import guess_kind, naming_vocabulary
from excise.edits.bases import check_base
from excise.edits.edit import Edit, applied
from excise.erasing.erase import Naming, Origin, make_edit
from excise.errors import ConceptError, EditFileError, ExciseError, JudgeError
from excise.evaluation.comparison import drift_by_prompt
from excise.evaluation.evaluate import evaluate
from excise.evaluation.plan import concept_plan, planned
from excise.evaluation.result import Evaluated
from excise.evaluation.scoring import Shown
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.drawing import BATCH, model_key
from excise.families.half_drawing import gains
from excise.judges.base import key_of
from excise.methods.base import Context
from excise.metrics.rates import Estimate
from excise.protocols import summary
from excise.protocols.base import Protocol
from excise.protocols.concept import ATTRIBUTE, OTHERS, RETAINED
from excise.support.digests import file_digest, short_digest
from excise.support.files import make_folder, write_json
from excise.support.progress import Report, silent
from excise.support.slugs import slug

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deletions:
    """A request for deletions one after another.

    Attributes:
        concepts: in their order, at least two.
        method, settings, naming, origin, seed: as for `excise.erasing.erase.make_edit`.
        stacked: make each edit on top of the earlier ones, as a host does that is asked again and again; else make at
            each step one edit of all concepts so far from the untouched model, as `excise update` does.
        judge: looks at every picture, and at those of trained methods; as for `evaluate`.
        weights: folder of the judge's weights.
        pictures: of each concept. others: fewest pictures of other names.
        share: of what the untouched model draws rightly of other names, the share below which the model has collapsed.
    """

    concepts: Sequence[Concept]
    method: str = "speed"
    settings: Mapping[str, Any] = field(default_factory=dict)
    naming: Naming = field(default_factory=Naming)
    origin: Origin = field(default_factory=Origin)
    seed: int = 0
    stacked: bool = True
    judge: object | None = None
    weights: Path | None = None
    pictures: int = 10
    others: int = OTHERS
    share: float = 0.8


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: the options of `evaluate` that results do not depend on."""

    batch: int = BATCH
    bfloat16: bool | None = None
    cache: Path | None = None
    states: Path | None = None


def plan_of(family: Family, request: Deletions) -> Protocol:
    """Return the protocol: the prompts of all concepts, and of other names.

    Raises:
        ConceptError: there are fewer than two concepts.
    """
    if len(request.concepts) < 2:
        raise ConceptError("one deletion is no sequence; name at least two concepts, in the order of their deletion.")
    names_from = naming_vocabulary(request.naming.vocabulary, family)
    plan = concept_plan(
        family,
        [guess_kind(c, request.naming.kind, names_from) for c in request.concepts],
        preserve=request.naming.preserve,
        pictures=request.pictures,
        others=request.others,
        vocabulary=request.naming.vocabulary,
        judged=is_built_in(family) or request.judge is not None or request.weights is not None,
    )
    groups = tuple(g for g in plan.groups if g in ("target", *RETAINED))
    return replace(plan, items=tuple(i for i in plan.items if i.group in groups), groups=groups, target_groups=groups)


def pictures_of(plan: Protocol) -> int:
    """Return how many pictures all steps draw together, those of the untouched model included."""
    own = len(plan.fixed_targets)
    targets = sum(i.group == "target" for i in plan.items)
    return len(plan.items) + own * (len(plan.items) - targets) + targets * (own + 1) // 2


def delete_in_sequence(
    family: Family,
    request: Deletions,
    out: Path,
    *,
    plan: Protocol | None = None,
    drawing: Drawing = Drawing(),
    fresh: bool = False,
    say: Report = silent,
) -> results.SequenceResult:
    """Delete concepts one after another; afterwards the model is as it was.

    Args:
        family: the untouched model.
        out: folder of the edits and of the steps, which a later call goes on from.
        plan: what `plan_of` returns.
        fresh: make every step again; what an earlier run left in `out` is removed before the first.
        say: receives progress.

    Raises:
        ConceptError: fewer than two concepts.
        JudgeError: there is no judge, or it does not know a concept.
        OutputError: what an earlier run left cannot be removed.
    """
    plan, judges = planned(plan or plan_of(family, request), family, [], (), request.judge, request.weights)
    if not judges:
        raise JudgeError(
            "without a judge nobody sees what is gone and what is kept; give --judge: the name of one (excise doctor "
            "--judges), or the folder of a CLIP model."
        )
    if fresh:
        clear(out)
    names = list(plan.fixed_targets)
    run = _Run(family, request, plan, judges[0], out, drawing, _about(family, judges[0], drawing), say)
    first = run.edit(1, ())
    if drawing.bfloat16 is None:  # one answer for all steps, so that what an edit leaves alone does not differ
        run = replace(run, drawing=replace(drawing, bfloat16=not first.edit.hooks and gains(family)))
    untouched = run.drawn((), names, "drawing the untouched model")
    steps: list[results.Step] = []
    below: list[_Made] = []
    for k in range(1, len(names) + 1):
        made = first if k == 1 else run.edit(k, below)
        steps.append(run.step(k, [*(m.edit for m in below), made.edit], untouched, made.known))
        below = [*below, made] if request.stacked else []
        say("deletions", k, len(names))
    remove_others(out, steps)
    return _result(request, plan, untouched.result.shown, steps)


def _about(family: Family, judge: object, drawing: Drawing) -> list[object]:
    """What every step depends on besides the request: the version of excise, the whole model, the judge, the precision.

    A model that no key identifies (hooks of its own, offloaded weights) makes every step again.
    """
    judged_by = [str(getattr(judge, "name", "")), key_of(judge)]
    return [version("excise"), model_key(family), *judged_by, family.device.type, drawing.bfloat16]


def _result(
    request: Deletions, plan: Protocol, shown: list[Shown], steps: list[results.Step]
) -> results.SequenceResult:
    """The result of all steps; `shown` is what the untouched model drew."""
    names = list(plan.fixed_targets)
    right = results.right_share(shown)
    retained = {s.step: results.estimate(s.retained) for s in steps if s.retained}
    return results.SequenceResult(
        model=request.origin.model_name or "",
        method=request.method,
        concepts=names,
        stacked=request.stacked,
        protocol=plan.name,
        hash=plan.hash,
        protocol_summary=summary(plan),
        untouched={name: share.as_dict() for name, share in results.shares(shown, names).items()},
        right=_figure(right),
        steps=steps,
        rebound={name: change.as_dict() for name, change in results.rebound(steps).items()},
        collapse=results.collapse(retained, request.share) if retained else None,
    )


@dataclass(frozen=True)
class _Made:
    """The edit of a step, and what is kept of the step so far."""

    edit: Edit
    known: Mapping[str, Any]


@dataclass(frozen=True)
class _Run:
    """A sequence at work.

    Attributes:
        judge: loaded once, for all steps.
        about: what every step depends on besides the request.
    """

    family: Family
    request: Deletions
    plan: Protocol
    judge: object
    out: Path
    drawing: Drawing
    about: Sequence[object]
    say: Report

    def edit(self, k: int, below: Sequence[_Made]) -> _Made:
        """Make the edit of a step, or load the one that an interrupted run made.

        Args:
            below: the edits of the steps before, on which it lies.
        """
        key = self._key(k, [str(made.known["digest"]) for made in below])
        known = self._known(k, key)
        edit = self._saved(known)
        if edit is not None:
            return _Made(edit, known)
        edit, seconds = self._made(k, [made.edit for made in below])
        file = f"{EDITS}/{'-'.join(filter(None, [f'{k:02d}', slug(self.plan.fixed_targets[k - 1])]))}.safetensors"
        make_folder(self.out / EDITS)
        edit.save(self.out / file)
        known = {"key": key, "edit": file, "digest": file_digest(self.out / file), "seconds": seconds}
        self._keep(k, known)
        return _Made(edit, known)

    def step(self, k: int, edits: Sequence[Edit], untouched: Evaluated, known: Mapping[str, Any]) -> results.Step:
        """Look at what the model draws after a step, or read what an interrupted run saw."""
        if "result" in known:
            return results.Step.model_validate(known["result"])
        step = self._looked_at(k, edits, untouched, known)
        self._keep(k, {**known, "result": step.model_dump(mode="json")})
        return step

    def drawn(self, edits: Sequence[Edit], names: Sequence[str], stage: str) -> Evaluated:
        """Draw and judge the prompts of some concepts and of all other names."""
        items = tuple(i for i in self.plan.items if i.group != "target" or i.asked.get(ATTRIBUTE) in names)

        def say(what: str, done: float, total: int) -> None:
            self.say(f"{'judging' if what == 'judging' else stage}", done, total)

        return evaluate(
            self.family,
            list(names),
            edits=edits,
            protocol=replace(self.plan, items=items),
            judge=self.judge,
            model_name=self.request.origin.model_name or "",
            batch=self.drawing.batch,
            bfloat16=self.drawing.bfloat16,
            cache=self.drawing.cache,
            say=say,
        )

    def _made(self, k: int, below: Sequence[Edit]) -> tuple[Edit, float]:
        """Make the edit of a step; also return the seconds that it took."""
        request, began = self.request, time.perf_counter()
        concepts = list(request.concepts[k - 1 : k]) if request.stacked else list(request.concepts[:k])
        folder = self.out / TRAINING / f"{k:02d}"
        context = Context(request.judge, folder, states=self.drawing.states, say=partial(self._said, k))
        with applied(self.family, below):
            erasure = make_edit(
                self.family,
                concepts,
                request.method,
                request.settings,
                request.naming,
                request.origin,
                request.seed,
                context,
            )
        return erasure.edit, round(time.perf_counter() - began, 3)

    def _said(self, k: int, what: str, done: float, total: int) -> None:
        self.say(f"{what}, deletion {k} of {len(self.plan.fixed_targets)}", done, total)

    def _looked_at(self, k: int, edits: Sequence[Edit], untouched: Evaluated, known: Mapping[str, Any]) -> results.Step:
        """Draw and judge with the edits of a step, and compare with the untouched model."""
        names = list(self.plan.fixed_targets)[:k]
        after = self.drawn(edits, names, f"drawing, deletion {k} of {len(self.plan.fixed_targets)}")
        rows = _rows(untouched.result.shown, names)
        before = [untouched.result.shown[i] for i in rows]
        shown = after.result.shown
        gone, retained = results.against(before, shown)
        own = [i for i, s in enumerate(shown) if s.group == "target" and s.asked.get(ATTRIBUTE) == names[-1]]
        own_gone, _ = results.against([before[i] for i in own], [shown[i] for i in own])
        others = [j for j, s in enumerate(shown) if s.group in RETAINED]
        drift = drift_by_prompt(
            untouched.images.at([rows[j] for j in others]),
            after.images.at(others),
            [shown[j].prompt for j in others],
        )
        return results.Step(
            step=k,
            concept=names[-1],
            edit=known["edit"],
            shows={name: share.as_dict() for name, share in results.shares(shown, names).items()},
            gone=_figure(gone),
            own=_figure(own_gone),
            retained=_figure(retained),
            right=_figure(results.right_share(shown)),
            drift=drift.as_dict(),
            seconds={"erase": known["seconds"], **after.result.seconds},
        )

    # what is kept of a step

    def _key(self, k: int, below: Sequence[str]) -> str:
        """A digest of all that a step depends on.

        Args:
            below: the digests of the edits on which it lies.
        """
        r = self.request
        concepts = [[c.name, c.kind, c.anchor, list(c.synonyms)] for c in r.concepts[:k]]
        naming = [list(r.naming.preserve), r.naming.vocabulary, r.naming.kind, r.naming.anchor]
        asked = [self.plan.hash, concepts, r.method, dict(r.settings), naming, r.seed, r.stacked]
        return short_digest([*asked, list(self.about), list(below)])

    def _known(self, k: int, key: str) -> dict[str, Any]:
        """What an interrupted run kept of a step; empty if nothing, or (with a warning) if it is damaged."""
        path = self._path(k)
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["key"] != key or not {"edit", "digest", "seconds"} <= content.keys():
                return {}
            if "result" in content:
                results.Step.model_validate(content["result"])
            return dict(content)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("the saved step %s is damaged (%s); it is made again.", path.name, type(error).__name__)
            return {}

    def _saved(self, known: Mapping[str, Any]) -> Edit | None:
        """The edit of a step that is known; None if there is none of this model."""
        if not known:
            return None
        path = self.out / EDITS / Path(known["edit"]).name
        try:
            if file_digest(path) != known["digest"]:
                raise EditFileError(f"{path.name} is not the file that this step wrote")
            edit = Edit.load(path)
            check_base(edit, self.family)
        except (OSError, ExciseError) as error:
            log.warning("the saved edit %s cannot be used (%s); it is made again.", known["edit"], error)
            return None
        return edit

    def _keep(self, k: int, content: Mapping[str, Any]) -> None:
        make_folder(self.out / STEPS)
        write_json(self._path(k), dict(content))

    def _path(self, k: int) -> Path:
        return self.out / STEPS / f"{k:02d}.json"


def _rows(shown: Sequence[Shown], names: Sequence[str]) -> list[int]:
    """Where the pictures of some concepts and of all other names stand among the untouched model's."""
    return [i for i, s in enumerate(shown) if s.group != "target" or s.asked.get(ATTRIBUTE) in names]


def _figure(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.as_dict()
