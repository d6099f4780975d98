"""SurgUn against attacks: further trainings on top of the first, against what still brings the target back.

Words that bring it back are searched and learnt on the training pictures before each, and go on being learnt in it; all
of attention is trained against them, held to what is kept by a loss. The edits add up.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from excise.concepts.concept import Concept
from excise.edits.apply import laid
from excise.edits.deltas import add
from excise.errors import ExciseWarning
from excise.families.base import join
from excise.families.text_space import nearest_first
from excise.methods.trained.surgun.competition import Competition
from excise.methods.trained.surgun.objective import Job, SurgUnConfig, kept_of, kept_prompts
from excise.methods.trained.surgun.restoring import Restoring, adversary, restoring
from excise.training.adapters import Adapter, choose_maps
from excise.training.pictures import picture_seed
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import kept_point, passes

HELD = 100.0  # least weight of the retain loss where all of attention is trained
HELD_PICTURES = 96  # of what is kept, for that loss, half of them of what is nearest to a target
LONGER = 2  # times the steps there
GENTLER = 3.0  # by what `push` is divided where a further training cost too much
SHOWN = 4  # pictures of each thing that brings a target back


def closer(job: Job) -> Job:
    """The job of a hardening: the untouched model also draws what is kept, to hold it there and to look closer."""
    problem, look = job.problem, job.look
    targets = [w for c in problem.concepts for w in c.words]
    near = nearest_first(problem.family, targets, problem.retain)[: HELD_PICTURES // 2]
    prompts = kept_prompts(problem, near)
    images = problem.sampling.draw(
        problem.family,
        prompts[:HELD_PICTURES],
        [picture_seed(problem.seed, "kept", i) for i in range(len(prompts[:HELD_PICTURES]))],
        lambda done, total: problem.say("drawing what is kept", done, total),
    )
    kept = kept_of(problem, prompts, problem.family.latents(images))
    competitions = [replace(c, kept=kept) for c in job.competitions]
    return replace(job, competitions=competitions, look=look.closer(job.config.judged) if look else None)


def harden(job: Job, first: TrainingResult) -> TrainingResult:
    """Further trainings, each on top of all before it, against what still brings the targets back.

    Each stops before it costs more than its part of what `keep` leaves to lose, near to the target or far from it. One
    that costs all of that and more, on average of both, at every checkpoint is left out, and the next is pushed less.
    """
    problem, competitions, push = job.problem, job.competitions, job.config.push
    maps = [m.path for m in choose_maps(problem.family, "attention")]
    whole, rounds = dict(first.modules), []
    for number in range(job.config.robust):
        config = _harder(job.config, push, (number + 1) / job.config.robust)
        with laid(problem.family, whole):
            found = [
                _returning(problem, config, c, k, number) for c, k in zip(problem.concepts, competitions, strict=True)
            ]
            back = [_shown(problem, c, more) for c, more in zip(problem.concepts, found, strict=True)]
            rounds.append(_round(problem, found, back))
            if number and problem.scorer and not any(back):
                break
            competitions = [
                replace(
                    k,
                    restoring=(*k.restoring, *more),
                    adversary=adversary(problem.family, c, k.slots, problem.seed, number),
                )
                for c, k, more in zip(problem.concepts, competitions, found, strict=True)
            ]
            again = replace(job, config=config, competitions=competitions).aside(f"robust-{number + 1}")
            further, measured = again.train(Adapter(problem.family, maps, config.rank, problem.seed + number))
        rounds[-1] |= {"push": push, "step": measured["step"], "calibration": measured["calibration"]}
        if job.look and config.calibrate == "kept" and kept_point(measured)["retain"] < job.config.keep:
            rounds[-1]["step"] = None
            push /= GENTLER
            if number + 1 == job.config.robust:
                _warn_of_costs(number + 1, job.config.keep)
            continue
        whole |= {p: add(whole[p], delta) if p in whole else delta for p, delta in further.items()}
    return replace(first, modules=whole, evidence={**first.evidence, "hardening": rounds})


def _harder(config: SurgUnConfig, push: float, share: float) -> SurgUnConfig:
    """Settings of a further training: long, pushed and held to what is kept harder, and as far as that is kept.

    Args:
        push: times the weight of the contrast.
        share: of what `keep` leaves to lose, what may be lost by now.
    """
    longer = {name: LONGER * getattr(config, name) for name in ("steps", "save_every")}
    held = {"weight": push * config.weight, "retain_weight": max(HELD, config.retain_weight)}
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


def _returning(
    problem: TrainingProblem, config: SurgUnConfig, concept: Concept, competition: Competition, number: int
) -> list[Restoring]:
    """What brings a target back of the model as it is now."""
    with passes(problem.family, config):
        return restoring(problem.family, concept, competition.slots, problem.seed, number, problem.say)


def _shown(problem: TrainingProblem, concept: Concept, found: Sequence[Restoring]) -> float | None:
    """Share of pictures in which a judge sees the target with what was found; None without a judge."""
    if problem.scorer is None:
        return None
    asked = join([r.condition[list(range(min(SHOWN, len(r.condition))))] for r in found])
    seeds = [picture_seed(problem.seed, "restored", i) for i in range(len(asked))]
    seen = problem.scorer.sees(problem.sampling.render(problem.family, asked, seeds), [concept.name] * len(asked))
    return sum(seen) / len(seen)


def _round(
    problem: TrainingProblem, found: Sequence[Sequence[Restoring]], back: Sequence[float | None]
) -> dict[str, Any]:
    """What a record says of what was found before a further training."""
    names = [c.name for c in problem.concepts]
    return {
        "words": {name: [r.words for r in more if r.words] for name, more in zip(names, found, strict=True)},
        "learnt_words": {name: sum(not r.words for r in more) for name, more in zip(names, found, strict=True)},
        "restored": dict(zip(names, back, strict=True)),
    }
