"""SurgUn: forgetting as competition. The target's prompts learn to yield several other things instead.

Paper:      Ranjan et al., "Forgetting is Competition: Rethinking Unlearning as Representation Interference in Diffusion
            Models", arXiv 2603.00975
Provenance: written from the paper's abstracts; no official code is known. What they leave open (the exact contrast,
            ranks, rates, how blocks are probed, the checkpoint rule) is our choice and a setting.

For a target T with prompts c_T and K diverse distractors, pictures x_T and x_D that the model draws itself,

    L_T = E |f(z_T, t, c_T) - y_T|^2,     L_D = (1/K) sum_k E |f(z_k, t, c_T) - y_k|^2      (both under c_T)
    L   = w L_D + lambda C,               C = log(1 + L_D / (L_T + d))                      (contrast "ratio")

Descent on L_D teaches the target's prompts several other outcomes, the contrast pushes the target's own denoising away
and is bounded (objective.py). Where to train is decided by pictures (localisation.py), or, with
`confine`, by algebra: the maps that read text change where kept prompts hardly answer
(confinement.py), so these stay as they are; where that part of text space is too narrow for the target, a
wider one is tried. Which checkpoint to keep is decided by pictures too (training/calibration.py).

With `robust` a second edit is trained on top of the first, in all of attention, against what still brings the target
back and what learns to meanwhile, and held to what is kept by a loss; the two add up
(robust.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from excise.concepts.concept import Concept, fill
from excise.errors import ExciseWarning, SettingError
from excise.families.maps import WeightMap
from excise.methods.trained.base import Trained
from excise.methods.trained.surgun.competition import Competition
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.confinement import Readings, Span, check_retained, null_span, readings, target_span
from excise.methods.trained.surgun.distractors import choose
from excise.methods.trained.surgun.localisation import Table, apart, check_judge, localise, named_blocks
from excise.methods.trained.surgun.objective import Job, retain_prompts, retained_of
from excise.methods.trained.surgun.robust import closer, harden
from excise.methods.trained.surgun.slots import Slots, UnseenError, draw_slots
from excise.training.adapters import Adapter, Weights, choose_maps
from excise.training.calibration import ENOUGH
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import chosen_point, preview_of


class SurgUn(Trained[SurgUnConfig]):
    """The method as the registry knows it."""

    Config = SurgUnConfig

    def train(self, problem: TrainingProblem, config: SurgUnConfig) -> TrainingResult:
        """Distractors, pictures, where to train, training, and which checkpoint to keep."""
        family = problem.family
        _check(problem, config)
        plan = family.noising
        retained = retained_of(problem, retain_prompts(problem)) if config.retain_weight else None
        competitions = [
            Competition(
                _slots(problem, c, config), family, plan, config.batch, config.caption, config.share_noise, retained
            )
            for c in problem.concepts
        ]
        preview = preview_of(problem, sorted({name for c in competitions for name in c.slots.names}))
        evidence: dict[str, Any] = {
            "distractors": {c.name: k.slots.names for c, k in zip(problem.concepts, competitions, strict=True)},
            "pictures": {c.name: k.slots.seen for c, k in zip(problem.concepts, competitions, strict=True)},
        }
        job = Job(problem, config, competitions, preview)
        trained = (_train_confined if config.confine else _train_blocks)(job)
        if config.robust:
            trained = harden(closer(job), trained)
        return replace(trained, evidence={**evidence, **trained.evidence})


def _check(problem: TrainingProblem, config: SurgUnConfig) -> None:
    """What can be refused before anything is drawn.

    Raises:
        SettingError: there is nothing to keep where that is needed, or blocks are not there or cannot be found.
    """
    if (config.retain_weight or config.robust) and not problem.retain:
        raise SettingError(
            "retain_weight and robust need prompts to keep (a vocabulary, --preserve, or --preserve-file); name some, "
            "or leave both at 0."
        )
    names = named_blocks(problem, config.blocks)
    if not config.confine:
        if names is None:
            check_judge(problem.scorer)
        return
    if config.blocks.startswith("worst:"):
        raise SettingError("blocks=worst:n is for blocks that localisation ranks; it needs --set confine=false.")
    check_retained(problem.retain)


def _train_blocks(job: Job) -> TrainingResult:
    """Train attention blocks, localised or named."""
    problem, config = job.problem, job.config
    blocks, table = localise(problem, config, job.preview, job.step)
    evidence: dict[str, Any] = {"blocks": blocks}
    if table:
        evidence |= {"localisation": table.rows, "localised_for": table.concept}
    maps = choose_maps(problem.family, config.modules, blocks)
    deltas, measured = job.train(Adapter(problem.family, [m.path for m in maps], config.rank, problem.seed))
    return TrainingResult(deltas, {**evidence, **measured}, {"localisation": table.pictures} if table else {})


def _train_confined(job: Job) -> TrainingResult:
    """Train in a narrow part of text space; where pictures say that the target is still there, once more in a wider.

    Returns:
        The attempt whose checkpoint scores best.
    """
    config = job.config
    read = _readings(job)
    if config.span == "null":
        return _train_within({kind: null_span(r, config.threshold) for kind, r in read.items()}, job)
    spans = {kind: target_span(r, config.share, config.ridge) for kind, r in read.items()}
    first = _train_within(spans, job)
    if not first.evidence["calibration"] or chosen_point(first.evidence)["erase"] >= ENOUGH:
        return first
    wider = {kind: target_span(r, config.share * config.widen, config.ridge) for kind, r in read.items()}
    if all(wider[kind].directions.shape == span.directions.shape for kind, span in spans.items()):
        return first
    second = _train_within(wider, job.aside("wider"))
    better, other = sorted((first, second), key=lambda t: _merit(t.evidence, config), reverse=True)
    attempt = {name: other.evidence[name] for name in ("text_space", "calibration")}
    return replace(better, evidence={**better.evidence, "other_attempt": attempt})


def _merit(measured: Mapping[str, Any], config: SurgUnConfig) -> tuple[bool, float]:
    """How good an attempt is, by the rule that chose its checkpoint."""
    point = chosen_point(measured)
    return config.calibrate in ("constrained", "kept") and point["erase"] >= ENOUGH, point["score"]


def _train_within(within: Mapping[str, Span], job: Job) -> TrainingResult:
    """One training of the maps that read text, each within a part of what it reads: tokens, or whole prompts."""
    family = job.problem.family
    spans = {m.path: within[_kind(m)].directions for m in _confined_maps(job)}
    adapter = Adapter(family, list(spans), job.config.rank, job.problem.seed, spans)
    charted: list[Table] = []

    def chart(_: Weights) -> None:
        if job.problem.charts and job.preview:
            charted.append(apart(job.problem, job.preview, adapter))

    deltas, measured = job.train(adapter, chart)
    spaces = {kind: _described(span) for kind, span in within.items()}
    space = {**spaces.pop("tokens", {}), **spaces}
    evidence = {"text_space": space, **({"by_block": charted[0].rows} if charted else {}), **measured}
    return TrainingResult(deltas, evidence, {"by_block": charted[0].pictures} if charted else {})


def _described(span: Span) -> dict[str, Any]:
    width, free = span.directions.shape
    return {"width": width, "free": free, "shares": [round(x, 6) for x in span.shares]}


def _readings(job: Job) -> dict[str, Readings]:
    """What all the words that ask for the targets, and what is kept, give to the maps that are trained."""
    problem = job.problem
    prompts = [[(p, w) for w in c.words for p in fill(problem.templates[c.kind], w)] for c in problem.concepts]
    read = readings(problem.family, prompts, problem.retain)
    return {kind: read[kind] for kind in dict.fromkeys(_kind(m) for m in _confined_maps(job))}


def _confined_maps(job: Job) -> list[WeightMap]:
    """The maps that read text, in the blocks that are named, or in all."""
    return choose_maps(job.problem.family, "cross_kv", named_blocks(job.problem, job.config.blocks))


def _kind(m: WeightMap) -> str:
    """Which readings (confinement.py) confine a map."""
    return "pooled" if m.part == "p" else "tokens"


def _slots(problem: TrainingProblem, concept: Concept, config: SurgUnConfig) -> Slots:
    """Pictures of the target and its distractors; of chosen ones that the judge hardly sees, others take the place."""
    names = [n.strip() for n in config.distractors.split(",") if n.strip()]
    unseen: list[str] = []
    while True:
        try:
            return _drawn(problem, concept, config, names, unseen)
        except UnseenError as error:
            if names or len(unseen) > config.count:
                raise
            warnings.warn(f"{error.seen}; others are chosen.", ExciseWarning, stacklevel=2)
            unseen += error.names


def _drawn(
    problem: TrainingProblem, concept: Concept, config: SurgUnConfig, named: Sequence[str], unseen: Sequence[str]
) -> Slots:
    others = [w for c in problem.concepts if c is not concept for w in c.words]
    names = choose(
        problem.family,
        concept.words,
        named or problem.candidates[concept.name],
        len(named) or config.count,
        excluded=[*others, *problem.preserve, *unseen],
        near=config.spread == "near",
    )
    return draw_slots(
        problem.family,
        concept.words,
        names,
        problem.templates[concept.kind],
        config.pictures,
        problem.sampling,
        scorer=problem.scorer,
        seed=problem.seed,
        progress=lambda done, total: problem.say(f"drawing {concept.name} and its distractors", done, total),
    )
