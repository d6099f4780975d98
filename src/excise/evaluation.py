"""Protocol -> images -> judge -> metrics, for a model with or without edits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from excise.canvas import world
from excise.concept import Concept, as_concepts
from excise.edit import Edit, as_family
from excise.erasing import is_built_in
from excise.errors import ConceptError, ModelError
from excise.families.base import Family, Progress
from excise.judges.canvas import NONE, CanvasJudge
from excise.metrics.rates import rate
from excise.metrics.unlearning import Seen, replacements, unlearning
from excise.protocols import PROTOCOLS
from excise.protocols.base import Item, Protocol

BATCH = 40


class Shown(BaseModel):
    """One image: what was asked for, what the judges saw."""

    model_config = ConfigDict(frozen=True)

    group: str
    prompt: str
    seed: int
    object: str | None
    style: str | None
    saw_object: str
    saw_style: str
    second_object: str
    second_style: str


class Evaluation(BaseModel):
    """The result of one protocol on one model; `metrics` maps a name to value, low, high (95 %) and n."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    protocol: str
    hash: str
    steps: int
    guidance: float
    judge: str
    model: str
    concepts: list[str]
    metrics: dict[str, dict[str, float]]
    became: dict[str, dict[str, int]]
    shown: list[Shown]
    seconds: float

    def seen(self, *groups: str) -> Seen:
        """Asked and seen labels of some groups, as the metrics take them."""
        chosen = [s for s in self.shown if s.group in groups]
        return Seen(
            {"object": [s.object or "" for s in chosen], "style": [s.style or "" for s in chosen]},
            {"object": [s.saw_object for s in chosen], "style": [s.saw_style for s in chosen]},
        )


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with its images, in the order of `result.shown`."""

    result: Evaluation
    images: list[Image.Image]


def evaluate(
    model: Any,
    concepts: Sequence[str | Concept] = (),
    *,
    edits: Sequence[Edit] = (),
    protocol: str = "canvas-mini",
    groups: Sequence[str] | None = None,
    allow_other_base: bool = False,
    model_name: str = "",
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Evaluated:
    """Run a protocol. The model is left as it was found.

    Args:
        model: a pipeline, or what `excise.load` returned.
        concepts: the targets; with none, the model's own accuracies are measured.
        edits: applied together for the time of the evaluation.
        groups: parts of the protocol to run; by default the grid, and the aliases of the targets or, without targets,
            the names at scale.

    Raises:
        UnknownNameError, ConceptError, ModelError: bad input, in one sentence.
    """
    plan: Protocol = PROTOCOLS.load(protocol)()
    targets = [_as_target(c) for c in as_concepts(concepts)] if concepts else []
    family = as_family(model)
    if not (is_built_in(family) or model_name.startswith("canvas")):
        _check_speaks_canvas(family)
    items = _items(plan, targets, groups)
    seeds = [plan.seed(i) for i in items]
    began = time.perf_counter()
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.apply(family, allow_other_base=allow_other_base))
        images = family.sample(
            [i.prompt for i in items],
            seeds,
            steps=plan.steps,
            guidance=plan.guidance,
            batch=batch,
            progress=progress,
        )
    shown = _judge(items, seeds, images)
    result = Evaluation(
        protocol=plan.name,
        hash=plan.hash,
        steps=plan.steps,
        guidance=plan.guidance,
        judge=plan.judge,
        model=model_name,
        concepts=[label for _, label in targets],
        metrics={},
        became={},
        shown=shown,
        seconds=round(time.perf_counter() - began, 2),
    )
    became = {label: replacements(result.seen("grid"), a, label) for a, label in targets}
    return Evaluated(result.model_copy(update={"metrics": measure(result, targets), "became": became}), images)


def measure(result: Evaluation, targets: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Every metric the shown images yield. Also serves to look at an untouched model through a target's eyes."""
    grid, names = result.seen("grid"), result.seen("names")
    found = {"abstain": rate([s.saw_object == NONE for s in result.shown])}
    found["judges_disagree"] = rate([s.saw_object != s.second_object for s in result.shown])
    if grid.asked["object"]:
        found |= {"object_accuracy": rate(grid.right("object")), "style_accuracy": rate(grid.right("style"))}
        if targets:
            found |= unlearning(grid, targets)
    if names.asked["object"]:
        found["names_accuracy"] = rate(names.right("object"))
    if any(s.group == "aliases" for s in result.shown):
        aliases = result.seen("aliases")
        hits = [aliases.right(a)[aliases.asks(a, label)].tolist() for a, label in targets]
        found["alias_rate"] = rate([hit for part in hits for hit in part])
    return {name: estimate.as_dict() for name, estimate in found.items()}


def _as_target(concept: Concept) -> tuple[str, str]:
    """(attribute, label) of a concept of Canvas.

    Raises:
        ConceptError: Canvas has no such object or style.
    """
    if concept.name in world.STYLES:
        return "style", concept.name
    if concept.name in world.OBJECTS:
        return "object", concept.name
    raise ConceptError(
        f"canvas-mini cannot judge '{concept.name}'; it knows the objects {', '.join(world.OBJECTS)} "
        f"and the styles {', '.join(world.STYLES)}."
    )


def _items(plan: Protocol, targets: Sequence[tuple[str, str]], groups: Sequence[str] | None) -> list[Item]:
    if groups is None:
        groups = ("grid", "aliases") if targets else ("grid", "names")
    items = plan.group(*groups)
    own = {label: set(world.aliases(label)) for _, label in targets}
    return [i for i in items if i.group != "aliases" or _speaks_of(i, own)]


def _speaks_of(item: Item, own: dict[str, set[str]]) -> bool:
    """Whether an alias item uses an alias of a target."""
    return any(
        label in (item.object, item.style) and any(alias in item.prompt for alias in words)
        for label, words in own.items()
    )


def _judge(items: Sequence[Item], seeds: Sequence[int], images: Sequence[Image.Image]) -> list[Shown]:
    first, second = (CanvasJudge(which).verdicts(images) for which in ("a", "b"))
    return [
        Shown(
            group=item.group,
            prompt=item.prompt,
            seed=seeds[i],
            object=item.object,
            style=item.style,
            saw_object=first["object"][i],
            saw_style=first["style"][i],
            second_object=second["object"][i],
            second_style=second["style"][i],
        )
        for i, item in enumerate(items)
    ]


def _check_speaks_canvas(family: Family) -> None:
    """Canvas protocols judge Canvas pictures only.

    Raises:
        ModelError: the model draws pictures of another size, so it cannot be a Canvas model.
    """
    scale = 2 ** (len(family.pipe.vae.config.block_out_channels) - 1)
    side = family.pipe.unet.config.sample_size * scale
    if side != 64:
        raise ModelError(
            f"canvas-mini judges the 64 x 64 pictures of the built-in models; this one draws {side} x {side}. "
            "Protocols for real models are not there yet; look at its pictures with: excise generate"
        )
