"""Attack a model for a concept: a suite of attacks with one budget, each compared with a control and an oracle."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from excise.attacks import Planned
from excise.attacks.accounting import Result, Worst, worst
from excise.attacks.base import Arena
from excise.attacks.material import Wordings, draw_calibration, draw_guides, wordings
from excise.attacks.original import Open, networks, swaps, untouched
from excise.attacks.panel import Panel, calibrated, shown_to_any
from excise.attacks.plan import Budget, budget_of, check_settings, configured, planned
from excise.attacks.runner import JudgedShot, Runner, Side
from excise.attacks.showing import suite_card
from excise.concepts.concept import Concept, normalise_name
from excise.concepts.vocabulary import OF_BUILT_IN_MODELS, guess_kind
from excise.edits.bases import check_base
from excise.edits.edit import Edit, applied
from excise.errors import ConceptError, ExciseWarning, ModelError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.drawing import model_key
from excise.families.fingerprints import raw_bytes
from excise.families.load import as_family
from excise.families.networks import adapters, hooked
from excise.families.timing import seconds_per_pass
from excise.judges.base import OpenJudge
from excise.judges.scored import check_knows
from excise.support.digests import digest
from excise.support.display import Card, Showing
from excise.support.progress import Report, silent
from excise.support.selection import evenly
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING, Sampling
from excise.training.scorers import as_scorer


@dataclass(frozen=True)
class SuiteOptions:
    """How a suite of attacks is made.

    Attributes:
        suite: quick, standard or full.
        names: attacks of the suite to make; empty makes all.
        settings: settings for every attack that has them.
        images: pictures that each test prompt may have; None takes the suite's number.
        tests: number of test prompts; None takes the suite's number.
        base: the untouched model, where the attacked one was erased by other means than edits; None removes the edits.
        oracle: a model that never knew the concept, attacked in the same way; None compares with controls alone.
        judge: as for `excise.erase`, None for the built-in models' own. It scores; no attack is guided by it.
        others: names of other things of the target's level.
        prompts: the user's prompts that ask for the target.
        allow_other_base: apply edits to another model than they were made for.
        seed: of every search and picture.
        folder: keeps finished attacks, so that the same call goes on where it stopped.
        cache: folder of images, where the untouched model's guides are kept for other calls.
    """

    suite: str = "standard"
    names: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    tests: int | None = None
    base: object | None = None
    oracle: object | None = None
    judge: object | None = None
    others: Sequence[str] = ()
    prompts: Sequence[str] = ()
    allow_other_base: bool = False
    seed: int = 0
    folder: Path | None = None
    cache: Path | None = None

    @property
    def budget(self) -> Budget:
        """Number of test prompts and of pictures; raises as `budget_of`."""
        return budget_of(self.suite, self.tests, self.images)

    @property
    def plan(self) -> list[Planned]:
        """The attacks to make, names and settings checked; raises as `planned` and `check_settings`."""
        attacks = planned(self.suite, self.names)
        check_settings(self.settings, attacks)
        return attacks


@dataclass(frozen=True, repr=False)
class SuiteResult(Showing):
    """The results of a suite.

    Attributes:
        results: in the order of the suite.
        shots: by attack, the strongest pictures of the model under attack.
        has_oracle: whether gaps are to a model that never knew the concept; otherwise to the controls.
        judge: the names of the judges, with their threshold.
        key: a digest of the prompts, guides, budget, sampler, judges and the untouched model.
    """

    results: list[Result]
    shots: dict[str, list[JudgedShot]]
    has_oracle: bool
    judge: str
    key: str = ""

    @property
    def worst(self) -> Worst:
        """The worst case over all attacks."""
        return worst(self.results, self.has_oracle)

    def card(self) -> Card:
        """What the results show of themselves, with the strongest pictures of each attack."""
        return suite_card(self.results, self.worst, self.shots, self.judge, self.has_oracle)


def attack(
    model: object,
    concept: str | Concept,
    edits: Sequence[Edit] = (),
    options: SuiteOptions = SuiteOptions(),
    say: Report = silent,
) -> SuiteResult:
    """Try to bring a concept back; afterwards the model is as it was.

    Args:
        model: a pipeline, or what `excise.load` returned.
        concept: the target; a name takes its kind and synonyms from the record of an edit, where one has it.
        edits: in force while the model is attacked.
        options: the suite, its budget, the models to compare with, and the judge.
        say: receives progress.

    Raises:
        ConceptError: the untouched model does not draw the concept, or there is no judge.
        ModelError: the base or oracle is of another kind than the model.
        SettingError, UnknownNameError, AttackError, PluginError: bad input, in one sentence.
    """
    budget, plan = options.budget, options.plan
    models = _models(model, options)
    if isinstance(concept, Concept):
        target = guess_kind(concept, None, OF_BUILT_IN_MODELS if models.built_in else None)
    else:
        target = target_of(concept, edits, canvas=models.built_in)
    _check_others(target, options.others)
    judges, guide_judge = _judges(options, models.built_in, target)
    prompts = wordings(target, models.built_in, options.others, options.prompts)
    _check_models(models)
    if len(prompts.tests) < budget.tests:
        message = f"only {len(prompts.tests)} test prompts are known; all numbers are over those."
        warnings.warn(message, ExciseWarning, stacklevel=2)
    family = models.family
    sampling = replace(
        CANVAS_SAMPLING if models.built_in else SAMPLING,
        cache=options.cache,
        say=lambda _, done, total: say("drawing guides", done, total),
    )
    original = untouched(family, models.base)
    allow = options.allow_other_base
    with applied(family, edits, allow_other_base=allow), autocast_without_cache(family) as precision:
        say("drawing guides", 0, 1)
        guides = draw_guides(original, prompts, target.name, guide_judge, sampling, options.seed)
        calibration = partial(draw_calibration, original, prompts, sampling, options.seed)
        panel = calibrated(target.name, judges, calibration)
        arena = Arena(family, original, target, evenly(prompts.tests, budget.tests), guides, seed=options.seed)
        arena = replace(arena, shows_target=partial(shown_to_any, [*judges, guide_judge], target.name))
        arena = _with_material(arena, prompts, budget, sampling)
        key = _key(arena, prompts, _environment(original, panel, precision))
        runner = Runner(arena, _sides(models, plan), panel, options.folder, key, say)
        results = [runner.run(p, options.settings) for p in plan]
    return SuiteResult(results, runner.shots, models.oracle is not None, panel.name, key)


def check(model: object, target: Concept, edits: Sequence[Edit], options: SuiteOptions) -> None:
    """Refuse, before any work, what `attack` would refuse of its models, edits and names.

    Raises:
        WrongBaseError: an edit is for another model.
        ConceptError, ModelError: as `attack`.
    """
    models = _models(model, options)
    _check_others(target, options.others)
    for edit in edits:
        check_base(edit, models.family, options.allow_other_base)
    if options.judge is None:
        _judges(options, models.built_in, target)
    _check_models(models)


def target_of(
    name: str,
    edits: Sequence[Edit] = (),
    kind: str | None = None,
    synonyms: Sequence[str] = (),
    *,
    canvas: bool = False,
) -> Concept:
    """Return the target of an attack by its name.

    Kind and synonyms are those given, else those in the record of an edit, else, on Canvas, those known there.
    """
    recorded = [t for e in edits for t in e.record.concepts if normalise_name(t.name) == normalise_name(name)]
    if recorded:
        kind, synonyms = kind or recorded[0].kind, synonyms or recorded[0].synonyms
    target = guess_kind(Concept(name, kind or "object"), kind, OF_BUILT_IN_MODELS if canvas else None)
    return replace(target, synonyms=tuple(synonyms))


def estimate(model: object, options: SuiteOptions) -> float:
    """Return how many seconds a suite will take on this machine, by one timed pass of the model.

    Results that are known from an earlier run are not subtracted.

    Raises:
        SettingError, UnknownNameError: as `attack`.
    """
    family, budget = as_family(model), options.budget
    attacks = [configured(p, options.settings) for p in options.plan]
    pass_seconds = seconds_per_pass(family)
    steps = (CANVAS_SAMPLING if is_built_in(family) else SAMPLING).steps
    drawing = 2 * steps * budget.tests * budget.images  # passes to draw all pictures of one attack, with guidance
    searching = sum(a.passes(budget.tests) for a in attacks)
    controls = {repr(a.control()) for a in attacks}
    sides = 1 if options.oracle is None else 2
    return pass_seconds * ((searching + drawing * len(attacks)) * sides + drawing * len(controls))


@dataclass(frozen=True)
class _Models:
    """The model under attack, and those that it is compared with."""

    family: Family
    base: Family | None
    oracle: Family | None
    built_in: bool


def _models(model: object, options: SuiteOptions) -> _Models:
    family = as_family(model)
    base, oracle = (None if other is None else as_family(other) for other in (options.base, options.oracle))
    return _Models(family, base, oracle, is_built_in(family) or (base is not None and is_built_in(base)))


def _check_models(models: _Models) -> None:
    """Refuse a base or oracle of another kind; warn of what cannot be removed where no base is given.

    Raises:
        ModelError: the base or oracle is of another family, or has other latents.
    """
    family = models.family
    for other in (models.base, models.oracle):
        if other is not None and (other.name, other.latent_shape) != (family.name, family.latent_shape):
            raise ModelError(
                f"the model under attack is of the family '{family.name}' with latents {family.latent_shape}, the "
                f"base or oracle given of '{other.name}' with {other.latent_shape}; give one of the same make."
            )
    if models.base is None and any(hooked(n) or adapters(n) for n in networks(family)):
        warnings.warn(
            "the model ships hooks or a LoRA, which stay in force in what is taken for the untouched model; give that "
            "one with --base.",
            ExciseWarning,
            stacklevel=3,
        )


def _check_others(target: Concept, others: Sequence[str]) -> None:
    """Refuse the target as one of the things that it is told apart from."""
    names = {normalise_name(word) for word in target.words}
    if clash := next((other for other in others if normalise_name(other) in names), None):
        raise ConceptError(f"'{clash}' is the target itself; name other things of its kind with --other.")


def _judges(options: SuiteOptions, built_in: bool, target: Concept) -> tuple[list[OpenJudge], OpenJudge]:
    """Return the judges that score pictures, and the judge that picks the guides.

    Raises:
        ConceptError: there is no judge.
    """
    scorer = as_scorer(options.judge, built_in, [target.name, *options.others], letter="a")
    check_knows(scorer, [target.name])
    if scorer is None:
        raise ConceptError("an attack cannot be scored without a judge; give --judge, the folder of a CLIP model.")
    second = as_scorer(None, built_in)
    if second is None or options.judge is not None:
        return [scorer], second or scorer
    return [scorer, second], second


@contextmanager
def autocast_without_cache(family: Family) -> Iterator[str]:
    """Keep the caller's autocast but not its cache, which would hold casts of weights that attacks train.

    Yields:
        The device and, under autocast, its dtype, as a label.
    """
    device = family.device.type
    dtype, on = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype=dtype, enabled=on, cache_enabled=False):
        yield f"{device} {dtype if on else ''}"


def _with_material(arena: Arena, prompts: Wordings, budget: Budget, sampling: Sampling) -> Arena:
    """Return an arena with the prompts, the budget of pictures and the sampler of a suite."""
    return replace(
        arena,
        others=prompts.others,
        banned=prompts.banned,
        ways={kind: evenly(rows, budget.tests * budget.images) for kind, rows in prompts.ways.items()},
        images=budget.images,
        steps=sampling.steps,
        guidance=sampling.guidance,
        batch=sampling.batch,
    )


def _sides(models: _Models, plan: Sequence[Planned]) -> dict[str, Side]:
    """Return the models to attack; parts to put back are looked for only if an attack does so."""
    has_swap = any(p.attack == "swap" for p in plan)
    sides = {"model": Side(models.family, swaps(models.family, models.base) if has_swap else {})}
    if models.oracle is not None:
        sides["oracle"] = Side(models.oracle, {})
    return sides


def _environment(original: Open, panel: Panel, precision: str) -> list[str]:
    """Return what results depend on besides the arena: precision, untouched model, version of excise, judges."""
    with original() as family:
        return [precision, model_key(family), version("excise"), panel.name, *panel.keys]


def _key(arena: Arena, prompts: Wordings, environment: Sequence[str]) -> str:
    """Return a digest of everything that all attacks of a suite share: prompts, guides, budget, sampler, judges."""
    shared = ("tests", "others", "banned", "ways", "images", "steps", "guidance", "batch", "seed")
    guides = arena.guides
    latents = hashlib.sha256(raw_bytes(torch.cat([guides.latents, guides.other_latents]))).hexdigest()
    guide_prompts = [prompts.guides, prompts.other_prompts, guides.prompts, guides.others]
    settings = {name: getattr(arena, name) for name in shared}
    return digest([asdict(arena.concept), settings, guide_prompts, latents, list(environment)])
