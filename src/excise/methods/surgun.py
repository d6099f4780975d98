"""SurgUn: forgetting as competition. The target's prompts learn to yield several other things instead.

Paper:      Ranjan et al., "Forgetting is Competition: Rethinking Unlearning as Representation Interference in Diffusion
            Models", arXiv 2603.00975
Provenance: written from the paper's abstracts; no official code is known. What they leave open (the exact contrast,
            ranks, rates, how blocks are probed, the checkpoint rule) is our choice and a setting.

For a target T with prompts c_T and K diverse distractors, pictures x_T and x_D that the model draws itself,

    L_T = E |f(z_T, t, c_T) - y_T|^2,     L_D = (1/K) sum_k E |f(z_k, t, c_T) - y_k|^2      (both under c_T)
    L   = w L_D + lambda C,               C = log(1 + L_D / (L_T + d))                      (contrast "ratio")

Descent on L_D teaches the target's prompts several other outcomes, the contrast pushes the target's own denoising away
and is bounded. Where to train is decided by pictures (training/localisation.py), or, with `confine`, by algebra: the
keys and values that read text change where kept prompts hardly answer (training/confinement.py), so these stay as they
are; where that part of text space is too narrow for the target, a wider one is tried. Which checkpoint to keep is
decided by pictures too (training/calibration.py).

With `robust` a second edit is trained on top of the first, in all of attention, against what still brings the target
back and what learns to meanwhile, and held to what is kept by a loss; the two add up.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.restoring import Restoring, adversary, restoring
from excise.concept import Concept, fill
from excise.edit import Delta, add, laid
from excise.errors import ExciseWarning, SettingError
from excise.families.base import join
from excise.noising import noising
from excise.training import objectives
from excise.training.adapters import Adapter, Weights, choose_maps
from excise.training.calibration import ENOUGH
from excise.training.competition import Competition, Kept
from excise.training.config import TrainedConfig
from excise.training.confinement import Span, check_retained, null_span, target_span
from excise.training.distractors import choose
from excise.training.localisation import Table, apart, check_judge, localise, named_blocks
from excise.training.loop import Losses, Step
from excise.training.pictures import Slots, UnseenError, draw_slots, picture_seed
from excise.training.probes import Look
from excise.training.problem import Trained, TrainingProblem, nearest_first
from excise.training.run import kept_point, look_of, passes, train

MOST_KEPT = 512  # prompts of the retain loss, encoded once
GUARD = 50.0  # times the initial L_T, beyond which the contrast rests
HELD = 100.0  # least weight of the retain loss where all of attention is trained
HELD_PICTURES = 96  # of what is kept, for that loss, half of them of what is nearest to a target
LONGER = 2  # times the steps there
GENTLER = 3.0  # by what `push` is divided where a further training cost too much
SHOWN = 4  # pictures of each thing that brings a target back


class SurgUnConfig(TrainedConfig):
    """Settings of SurgUn."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {
            "rank": 8,
            "lr": 3e-3,
            "steps": 120,
            "save_every": 20,
            "batch": 16,
            "count": 4,
            "pictures": 24,
            "judged": 104,
        },
    }

    modules: Literal["cross_kv", "cross", "self", "attention"] = Field(
        "attention",
        description="Which maps to train when not confined: keys and values that read text, all of cross-attention, "
        "all of self-attention, or both.",
    )
    contrast: Literal["ratio", "logasc", "npo", "duo", "ga", "none"] = Field(
        "ratio", description="The term that pushes the target's own denoising away."
    )
    weight: float = Field(0.1, ge=0, description="Weight of the contrast (lambda).")
    descent: float = Field(1.0, ge=0, description="Weight of the distractors' own error (w); 0 leaves them out.")
    floor: float = Field(1e-3, gt=0, description="Softening of the contrasts ratio and logasc (d).")
    beta: float = Field(5.0, gt=0, description="Sharpness of the contrasts npo and duo.")
    cap: float = Field(4.0, gt=0, description="Cap of the contrast ga, in units of the initial error; inf for none.")
    distractors: str = Field("", description="Names that compete, separated by commas; empty to choose them.")
    count: int = Field(8, ge=1, description="Number of distractors (K), where they are chosen.")
    spread: Literal["far", "near"] = Field("far", description="Choose diverse distractors, or the nearest ones.")
    pictures: int = Field(32, ge=2, description="Pictures of the target, and of each distractor.")
    caption: Literal["target", "own"] = Field("target", description="Prompts that distractors are trained under.")
    share_noise: bool = Field(True, description="One noise for a target and its distractor.")
    robust: int = Field(
        0,
        ge=0,
        description="Most further trainings, in all of attention, against words that bring the target back, which are "
        "searched or learnt before each and in it; no more where a judge sees that none does.",
    )
    push: float = Field(
        10.0,
        gt=0,
        description="Of robust: times the weight of the contrast there, at first; less keeps more and resists less.",
    )
    judged: int = Field(
        48,
        ge=1,
        description="Of robust: least pictures of what is kept, on either side, by which each checkpoint is judged.",
    )
    retain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of staying near the untouched model on prompts to keep; 0 leaves that to where "
        "the training takes place.",
    )
    blocks: str = Field(
        "auto",
        description="Attention blocks to train: auto (localised; all when confined), all, random:n, worst:n, or their "
        "names separated by commas.",
    )
    keep_blocks: int = Field(2, ge=1, description="Blocks that localisation keeps.")
    inject: bool = Field(
        False,
        description="Probe only the third of the blocks through which the target's prompt acts most (prompt "
        "injection); where blocks are many.",
    )
    reuse_blocks: bool = Field(
        True, description="Take the localisation of an earlier concept of the kind, where one is kept."
    )
    confine: bool = Field(
        True, description="Change text-reading keys and values alone, in a part of text space that spares what is kept."
    )
    span: Literal["target", "null"] = Field(
        "target", description="That part: what tells the target from what is kept, or what is kept does not use at all."
    )
    share: float = Field(
        0.03,
        gt=0,
        description="Of span=target: largest kept energy beside the target's; its clearest direction counts always.",
    )
    widen: float = Field(
        10.0,
        ge=1,
        description="Of span=target: where a judge still sees the target after training, train once more with share "
        "times this; 1 for never.",
    )
    ridge: float = Field(1e-2, gt=0, description="Of span=target: added to the kept moment, in its mean eigenvalues.")
    threshold: float = Field(1e-2, gt=0, description="Of span=null: eigenvalues of the kept moment below it are null.")


def objective(
    target: Tensor,
    distractor: Tensor,
    config: SurgUnConfig,
    start: float,
    reference: tuple[Tensor, Tensor] | None = None,
) -> Losses:
    """L = w L_D + lambda C from per-sample errors.

    Args:
        target, distractor: (m,) errors. start: the untouched model's L_T.
        reference: the untouched model's errors on the same batch, for npo and duo.
    """
    L_T, L_D = target.mean(), distractor.mean()
    C = _contrast(target, distractor, config, start, reference)
    if float(L_T.detach()) > GUARD * start and config.contrast != "ga":
        C = C.detach()
    return {"loss": config.descent * L_D + config.weight * C, "target": L_T, "distractors": L_D, "contrast": C}


def _contrast(
    target: Tensor,
    distractor: Tensor,
    config: SurgUnConfig,
    start: float,
    reference: tuple[Tensor, Tensor] | None,
) -> Tensor:
    if config.contrast == "ratio":
        return objectives.ratio(target, distractor, config.floor)
    if config.contrast == "logasc":
        return objectives.logasc(target, config.floor)
    if config.contrast == "ga":
        return objectives.capped_ascent(target, config.cap * start)
    if config.contrast == "none":
        return torch.zeros(())
    assert reference is not None, "npo and duo compare with the untouched model"
    if config.contrast == "npo":
        return objectives.npo(target, reference[0], config.beta)
    return objectives.duo(target, distractor, *reference, config.beta)


def step_of(adapter: Weights, competitions: Sequence[Competition], config: SurgUnConfig) -> Step:
    """One pass of training: the mean loss over the targets."""
    starts = [_start(adapter, c) for c in competitions]

    def step(generator: torch.Generator) -> Losses:
        parts = []
        for competition, start in zip(competitions, starts, strict=True):
            batch = competition.batch(generator)
            reference = None
            if config.contrast in ("npo", "duo"):
                with adapter.teacher(), torch.no_grad():
                    reference = competition.errors(batch)
            losses = dict(objective(*competition.errors(batch), config, start, reference))
            if config.retain_weight:
                losses["retain"] = competition.drift(generator, adapter)
                losses["loss"] = losses["loss"] + config.retain_weight * losses["retain"]
            parts.append(losses)
        return {name: torch.stack([p[name] for p in parts]).mean() for name in parts[0]}

    return step


@torch.no_grad()
def _start(adapter: Weights, competition: Competition) -> float:
    """L_T of the untouched model under the target's own prompts, over a few batches."""
    generator, own = torch.Generator().manual_seed(0), competition.plain
    with adapter.teacher():
        return float(torch.stack([own.errors(own.batch(generator))[0].mean() for _ in range(4)]).mean())


@dataclass(frozen=True)
class Job:
    """One training, wherever it takes place.

    Attributes:
        look: to judge blocks and checkpoints by.
    """

    problem: TrainingProblem
    config: SurgUnConfig
    competitions: Sequence[Competition]
    look: Look | None

    def step(self, adapter: Weights) -> Step:
        """One pass of training of an adapter."""
        return step_of(adapter, self.competitions, self.config)

    def train(
        self, adapter: Weights, meet: Callable[[Weights], None] | None = None
    ) -> tuple[Mapping[str, Delta], dict[str, Any]]:
        """As `training.run.train`."""
        learning = [c.adversary for c in self.competitions if c.adversary]
        return train(self.problem, self.config, adapter, self.step, self.look, meet, learning)

    def aside(self, name: str) -> Job:
        """The same with a folder of its own."""
        folder = self.problem.folder / name if self.problem.folder else None
        return replace(self, problem=replace(self.problem, folder=folder))


class SurgUn:
    """The method as the registry knows it."""

    Config = SurgUnConfig

    @staticmethod
    def train(problem: TrainingProblem, config: SurgUnConfig) -> Trained:
        """Distractors, pictures, where to train, training, and which checkpoint to keep."""
        family = problem.family
        _check(problem, config)
        plan = noising(family.pipe.scheduler)
        kept = _kept(problem, _kept_prompts(problem)) if config.retain_weight else None
        competitions = [
            Competition(
                _slots(problem, c, config), family, plan, config.batch, config.caption, config.share_noise, kept
            )
            for c in problem.concepts
        ]
        look = look_of(problem, sorted({name for c in competitions for name in c.slots.names}))
        evidence: dict[str, Any] = {
            "distractors": {c.name: k.slots.names for c, k in zip(problem.concepts, competitions, strict=True)},
            "pictures": {c.name: k.slots.seen for c, k in zip(problem.concepts, competitions, strict=True)},
        }
        job = Job(problem, config, competitions, look)
        trained = (_train_confined if config.confine else _train_blocks)(job)
        if config.robust:
            trained = _harden(_closer(job), trained)
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
    named = named_blocks(problem, config.blocks)
    if not config.confine:
        if named is None:
            check_judge(problem.scorer)
        return
    if config.blocks.startswith("worst:"):
        raise SettingError("blocks=worst:n is for blocks that localisation ranks; it needs --set confine=false.")
    check_retained(problem.retain)


def _train_blocks(job: Job) -> Trained:
    """Train attention blocks, localised or named."""
    problem, config = job.problem, job.config
    blocks, table = localise(problem, config, job.look, job.step)
    evidence: dict[str, Any] = {"blocks": blocks}
    if table:
        evidence |= {"localisation": table.rows, "localised_for": table.concept}
    maps = choose_maps(problem.family, config.modules, blocks)
    deltas, measured = job.train(Adapter(problem.family, [m.path for m in maps], config.rank, problem.seed))
    return Trained(deltas, {**evidence, **measured}, {"localisation": table.pictures} if table else {})


def _train_confined(job: Job) -> Trained:
    """Train in a narrow part of text space; where pictures say that the target is still there, once more in a wider.

    Returns:
        The attempt whose checkpoint scores best.
    """
    config = job.config
    if config.span == "null":
        return _train_within(null_span(job.problem.family, job.problem.retain, config.threshold), job)
    span = _target_span(job, config.share)
    first = _train_within(span, job)
    if not first.evidence["calibration"] or kept_point(first.evidence)["erase"] >= ENOUGH:
        return first
    wider = _target_span(job, config.share * config.widen)
    if wider.directions.shape == span.directions.shape:
        return first
    second = _train_within(wider, job.aside("wider"))
    better, other = sorted((first, second), key=lambda t: _merit(t.evidence, config), reverse=True)
    attempt = {name: other.evidence[name] for name in ("text_space", "calibration")}
    return replace(better, evidence={**better.evidence, "other_attempt": attempt})


def _merit(measured: Mapping[str, Any], config: SurgUnConfig) -> tuple[bool, float]:
    """How good an attempt is, by the rule that chose its checkpoint."""
    point = kept_point(measured)
    return config.calibrate in ("constrained", "kept") and point["erase"] >= ENOUGH, point["score"]


def _train_within(span: Span, job: Job) -> Trained:
    """One training of the keys and values that read text, within a part of text space."""
    family, (width, free) = job.problem.family, span.directions.shape
    chosen = named_blocks(job.problem, job.config.blocks)
    spans = {m.path: span.directions for m in choose_maps(family, "cross_kv", chosen)}
    adapter = Adapter(family, list(spans), min(job.config.rank, free), job.problem.seed, spans)
    charted: list[Table] = []

    def chart(_: Weights) -> None:
        if job.problem.charts and job.look:
            charted.append(apart(job.problem, job.look, adapter))

    deltas, measured = job.train(adapter, chart)
    space = {"width": width, "free": free, "shares": [round(x, 6) for x in span.shares]}
    evidence = {"text_space": space, **({"by_block": charted[0].rows} if charted else {}), **measured}
    return Trained(deltas, evidence, {"by_block": charted[0].pictures} if charted else {})


def _target_span(job: Job, share: float) -> Span:
    """Where in text space the targets answer, by all the words that ask for them, and what is kept hardly does."""
    problem = job.problem
    asked = [[(p, w) for w in c.words for p in fill(problem.templates[c.kind], w)] for c in problem.concepts]
    return target_span(problem.family, asked, problem.retain, share, job.config.ridge)


def _kept(problem: TrainingProblem, prompts: Sequence[str], pictures: Tensor | None = None) -> Kept:
    """What the retain loss holds: prompts, the empty one beside them, and pictures of the first of them."""
    return Kept(problem.family.condition([*prompts, ""]).to(torch.device("cpu"), torch.float32), pictures)


def _kept_prompts(problem: TrainingProblem, first: Sequence[str] = ()) -> list[str]:
    """At most MOST_KEPT of the prompts to keep, in random order after those that are to be first."""
    order = torch.randperm(len(problem.retain), generator=torch.Generator().manual_seed(problem.seed)).tolist()
    return list(dict.fromkeys([*first, *(problem.retain[i] for i in order)]))[:MOST_KEPT]


def _closer(job: Job) -> Job:
    """The job of a hardening: the untouched model also draws what is kept, to hold it there and to look closer."""
    problem, look = job.problem, job.look
    targets = [w for c in problem.concepts for w in c.words]
    near = nearest_first(problem.family, targets, problem.retain)[: HELD_PICTURES // 2]
    prompts = _kept_prompts(problem, near)
    images = problem.sampling.draw(
        problem.family,
        prompts[:HELD_PICTURES],
        [picture_seed(problem.seed, "kept", i) for i in range(len(prompts[:HELD_PICTURES]))],
        lambda done, total: problem.say("drawing what is kept", done, total),
    )
    kept = _kept(problem, prompts, problem.family.latents(images))
    competitions = [replace(c, kept=kept) for c in job.competitions]
    return replace(job, competitions=competitions, look=look.closer(job.config.judged) if look else None)


def _harden(job: Job, first: Trained) -> Trained:
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


def _slots(problem: TrainingProblem, concept: Concept, config: SurgUnConfig) -> Slots:
    """Pictures of the target and its distractors; of chosen ones that the judge hardly sees, others take the place."""
    named = [n.strip() for n in config.distractors.split(",") if n.strip()]
    unseen: list[str] = []
    while True:
        try:
            return _drawn(problem, concept, config, named, unseen)
        except UnseenError as error:
            if named or len(unseen) > config.count:
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
