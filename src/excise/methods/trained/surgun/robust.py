"""SurgUn against attacks: further trainings on top of the first, against prompts that still regain the target.

Before each, words that regain it are searched and learnt on the training pictures; they go on being learnt while all of
attention is trained against them, with a retain loss. The edits add up.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from excise.concepts.concept import Concept
from excise.edits.apply import temporarily_applied
from excise.edits.deltas import added_up
from excise.errors import ExciseWarning
from excise.families.conditions import join
from excise.families.text_space import nearest_first
from excise.methods.trained.surgun.competition import Competition, Retained
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.objective import Job, retain_prompts, retained_of
from excise.methods.trained.surgun.restoring import Restoring, adversary, bystanders, restoring
from excise.training.adapters import Adapter, choose_maps
from excise.training.pictures import picture_seed
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import chosen_point, training_mode

MIN_RETAIN_WEIGHT = 100.0  # of the retain loss in a further training
RETAINED_PICTURES = 96  # for that loss, half of them of the prompts nearest to a target
BYSTANDERS = 96  # for that loss, further pictures, under words that nobody taught
STEP_FACTOR = 2  # a further training has this many times the steps
PUSH_DIVISOR = 3.0  # divides `push` where a further training retained too little
PREVIEWS = 4  # pictures judged of each condition that regains a target


def closer(job: Job) -> Job:
    """The job of a hardening: with pictures by the untouched model for the retain loss, and with more probes."""
    problem, preview = job.problem, job.preview
    targets = [w for c in problem.concepts for w in c.words]
    near = nearest_first(problem.family, targets, problem.retain)[: RETAINED_PICTURES // 2]
    prompts = retain_prompts(problem, near)
    images = problem.sampling.draw(
        problem.family,
        prompts[:RETAINED_PICTURES],
        [picture_seed(problem.seed, "kept", i) for i in range(len(prompts[:RETAINED_PICTURES]))],
        lambda done, total: problem.say("drawing what is kept", done, total),
    )
    retained = retained_of(problem, prompts, problem.family.latents(images))
    competitions = [
        replace(k, retained=_with_bystanders(problem, c, k, retained))
        for c, k in zip(problem.concepts, job.competitions, strict=True)
    ]
    return replace(job, competitions=competitions, preview=preview.closer(job.config.judged) if preview else None)


def _with_bystanders(
    problem: TrainingProblem, concept: Concept, competition: Competition, retained: Retained
) -> Retained:
    """What is retained, and before it the target's prompts with words that nobody taught, with pictures of these."""
    assert retained.pictures is not None
    condition = bystanders(problem.family, concept, competition.slots, problem.seed, BYSTANDERS)
    seeds = [picture_seed(problem.seed, "bystanders", i) for i in range(BYSTANDERS)]
    images = problem.sampling.render(problem.family, condition, seeds)
    pictures = torch.cat([problem.family.latents(images), retained.pictures])
    return Retained(join([condition, retained.condition]), pictures)


def harden(job: Job, first: TrainingResult) -> TrainingResult:
    """Train further edits, each on top of all before it, against prompts that still regain the targets.

    The checkpoint of each retains its share of what `keep` allows to lose, near to the target and far from it. Where
    every checkpoint retains less than `keep` on average, the edit is left out and the next has a smaller push.
    """
    problem, competitions, push = job.problem, job.competitions, job.config.push
    maps = [m.path for m in choose_maps(problem.family, "attention")]
    whole, rounds = dict(first.modules), []
    for number in range(job.config.robust):
        config = _harder(job.config, push, (number + 1) / job.config.robust)
        with temporarily_applied(problem.family, whole):
            regaining = [
                _regaining(problem, config, c, k, number) for c, k in zip(problem.concepts, competitions, strict=True)
            ]
            rates = [regained_rate(problem, c, more) for c, more in zip(problem.concepts, regaining, strict=True)]
            rounds.append(_round(problem, regaining, rates))
            if number and problem.scorer and not any(rates):
                break
            competitions = [
                replace(
                    k,
                    restoring=(*k.restoring, *more),
                    adversary=adversary(problem.family, c, k.slots, problem.seed, number),
                )
                for c, k, more in zip(problem.concepts, competitions, regaining, strict=True)
            ]
            again = replace(job, config=config, competitions=competitions).aside(f"robust-{number + 1}")
            further, measured = again.train(Adapter(problem.family, maps, config.rank, problem.seed + number))
        rounds[-1] |= {"push": push, "step": measured["step"], "calibration": measured["calibration"]}
        if job.preview and config.calibrate == "kept" and chosen_point(measured)["retain"] < job.config.keep:
            rounds[-1]["step"] = None
            push /= PUSH_DIVISOR
            if number + 1 == job.config.robust:
                _warn_of_costs(number + 1, job.config.keep)
            continue
        whole = added_up([whole, further])
    return replace(first, modules=whole, evidence={**first.evidence, "hardening": rounds})


def _harder(config: SurgUnConfig, push: float, share: float) -> SurgUnConfig:
    """Settings of a further training: more steps, a stronger contrast, a retain loss, and the checkpoint rule "kept".

    Args:
        push: factor on the weight of the contrast.
        share: share of what `keep` allows to lose that may be lost after this training.
    """
    longer = {name: STEP_FACTOR * getattr(config, name) for name in ("steps", "save_every")}
    held = {"weight": push * config.weight, "retain_weight": max(MIN_RETAIN_WEIGHT, config.retain_weight)}
    settling = {"lr_scheduler": "cosine"}
    rule = {"calibrate": "last" if config.calibrate == "last" else "kept", "keep": 1 - share * (1 - config.keep)}
    return config.model_copy(update={**held, **longer, **settling, **rule})


def _warn_of_costs(number: int, keep: float) -> None:
    warnings.warn(
        f"round {number} of the hardening, the last, kept less than {keep:.0%} of what is to be kept at every "
        "checkpoint, so it was left out; a lower --set push=... or --set keep=... lets more of it in.",
        ExciseWarning,
        stacklevel=2,
    )


def _regaining(
    problem: TrainingProblem, config: SurgUnConfig, concept: Concept, competition: Competition, number: int
) -> list[Restoring]:
    """Conditions that regain a target from the model as it is now."""
    with training_mode(problem.family, config.checkpointing):
        return restoring(problem.family, concept, competition.slots, problem.seed, number, problem.say)


def regained_rate(problem: TrainingProblem, concept: Concept, conditions: Sequence[Restoring]) -> float | None:
    """Share of the pictures of some conditions in which the judge sees the target; None without a judge."""
    if problem.scorer is None:
        return None
    condition = join([r.condition[list(range(min(PREVIEWS, len(r.condition))))] for r in conditions])
    seeds = [picture_seed(problem.seed, "restored", i) for i in range(len(condition))]
    seen = problem.scorer.sees(
        problem.sampling.render(problem.family, condition, seeds), [concept.name] * len(condition)
    )
    return sum(seen) / len(seen)


def _round(
    problem: TrainingProblem, regaining: Sequence[Sequence[Restoring]], rates: Sequence[float | None]
) -> dict[str, Any]:
    """The record of a further training, as far as it is known before it."""
    names = [c.name for c in problem.concepts]
    return {
        "words": {name: [r.words for r in more if r.words] for name, more in zip(names, regaining, strict=True)},
        "learnt_words": {name: sum(not r.words for r in more) for name, more in zip(names, regaining, strict=True)},
        "restored": dict(zip(names, rates, strict=True)),
    }
