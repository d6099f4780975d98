"""Attack a model for a concept: a suite of attacks with one budget, beside the controls and the oracle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import ValidationError

from excise.attacks import ATTACKS, SUITES, Planned
from excise.attacks.accounting import Outcome, Result, judged, worst
from excise.attacks.base import Arena, AttackError
from excise.attacks.material import Wordings, chosen, guides, wordings
from excise.concept import Concept
from excise.drawing import model_key, peak_memory_mb
from excise.edit import Edit, applied, as_family, in_force
from excise.erasing import guess_kind, is_built_in
from excise.errors import ConceptError, SettingError, unknown
from excise.families.base import Family
from excise.files import make_folder, write_atomically, write_json
from excise.metrics.rates import Estimate
from excise.strict import explain
from excise.training.problem import CANVAS_SAMPLING, SAMPLING, digest
from excise.training.scorers import Scorer, as_scorer

CONTROLS = {"seeds": Planned("seeds", "seeds"), "random": Planned("random words", "random")}
Say = Callable[[str, int, int], None]
Pictures = dict[tuple[str, str], list[Image.Image]]


@dataclass(frozen=True)
class Attacked:
    """What a suite found.

    Attributes:
        results: in the order of the suite. pictures: by attack and side ("model", "control", "oracle") all it drew.
        has_oracle: whether gaps are to a model that never knew the concept, or to the controls.
    """

    results: list[Result]
    pictures: Pictures
    has_oracle: bool
    judge: str

    @property
    def worst(self) -> Estimate | None:
        """The largest gap; None where no attack could be made."""
        top = worst(self.results)
        return top.gap if top else None


def attack(
    model: Any,
    concept: str | Concept,
    edits: Sequence[Edit] = (),
    *,
    suite: str = "standard",
    names: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    images: int | None = None,
    tests: int | None = None,
    base: Any = None,
    oracle: Any = None,
    judge: Any = None,
    others: Sequence[str] = (),
    asked: Sequence[str] = (),
    allow_other_base: bool = False,
    seed: int = 0,
    folder: Path | None = None,
    say: Say = lambda *_: None,
) -> Attacked:
    """Try to bring a concept back. The model is left as it was found.

    Args:
        model: a pipeline, or what `excise.load` returned. edits: in force while it is attacked.
        suite: quick, standard or full. names: of its attacks, those alone. settings: for every attack that has them.
        images: pictures a test prompt may have. tests: how many test prompts. None takes the suite's.
        base: the untouched model, where `model` was erased by other means than `edits`; None takes the edits off.
        oracle: a model that never knew the concept, attacked in the same way.
        judge: as for `excise.erase`; the built-in models have their own. It scores; no attack is guided by it.
        others: names of the target's level. asked: prompts of the user's that ask for the target.
        folder: keeps every finished attack, so that the same call goes on where it stopped.

    Raises:
        ConceptError: the untouched model does not draw the concept, or there is nothing to judge with.
        SettingError, UnknownNameError, AttackError: bad input, in one sentence.
    """
    plan = _planned(suite, names)
    family, concept_ = as_family(model), guess_kind(concept if isinstance(concept, Concept) else Concept(concept), None)
    built_in = is_built_in(as_family(base) if base is not None else family) or is_built_in(family)
    scorer = as_scorer(judge, built_in, [concept_.name, *others], letter="a")
    if scorer is None:
        raise ConceptError("an attack cannot be scored without looking; give --judge, the folder of a CLIP model.")
    guide = as_scorer(None, built_in) or scorer
    budget = SUITES[suite]
    count = budget.tests if tests is None else tests
    each = budget.images if images is None else images
    if min(count, each) < 1:
        raise SettingError("a budget of no pictures attacks nothing; give --images and --tests of 1 or more.")
    said = wordings(concept_, built_in, others, asked)
    sampling = CANVAS_SAMPLING if built_in else SAMPLING
    untouched = _untouched(family, as_family(base) if base is not None else None)
    with applied(family, edits, allow_other_base=allow_other_base):
        say("drawing guides", 0, 1)
        material = guides(untouched, said, concept_.name, guide, sampling, seed)
        shared = {
            "original": untouched,
            "concept": concept_,
            "tests": chosen(said.tests, count),
            "guides": material,
            "others": said.others,
            "banned": said.banned,
            "ways": {way: chosen(prompts, count * each) for way, prompts in said.ways.items()},
            "images": each,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "batch": sampling.batch,
            "seed": seed,
        }
        sides = {"model": (family, _swaps(family))}
        if oracle is not None:
            sides["oracle"] = (as_family(oracle), {})
        runner = _Runner(
            shared, sides, scorer, guide if guide is not scorer else None, folder, _asked(said, shared), say
        )
        runner.check(settings or {})
        results = [runner.run(p, settings or {}) for p in plan]
    return Attacked(results, runner.pictures, oracle is not None, scorer.name)


@dataclass
class _Runner:
    """Runs attacks on each side, once each, and keeps what came out."""

    shared: Mapping[str, Any]
    sides: Mapping[str, tuple[Family, Mapping[str, Any]]]
    judge: Scorer
    second: Scorer | None
    folder: Path | None
    key: str
    say: Say

    def __post_init__(self) -> None:
        self.pictures: Pictures = {}
        self.known: dict[tuple[str, str], Outcome] = {}
        self.models = {side: model_key(family) for side, (family, _) in self.sides.items()}

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a setting that no attack has."""
        fields = {f for name in ATTACKS for f in ATTACKS.load(name).Config.model_fields}
        for key in settings:
            if key not in fields:
                raise unknown("setting of an attack", key, fields)

    def run(self, planned: Planned, settings: Mapping[str, Any]) -> Result:
        """One attack on the model, its control, and the oracle."""
        kind, config = _configured(planned, settings)
        about = (planned.name, planned.attack, config.model_dump(mode="json"), kind.access, self.shared["images"])
        try:
            model = self.outcome(planned, kind, config, "model")
        except AttackError as error:
            return Result(*about, why=str(error))
        control_kind, control_config = _configured(CONTROLS[kind.control], self._same_words(kind, config))
        control = self.outcome(CONTROLS[kind.control], control_kind, control_config, "model", "control", planned.name)
        found = None
        if "oracle" in self.sides:
            try:
                found = self.outcome(planned, kind, config, "oracle")
            except AttackError:  # a swap: an oracle has no parts to put back
                found = None
        return Result(*about, model=model, control=control, oracle=found)

    def outcome(
        self, planned: Planned, kind: Any, config: Any, side: str, shown_as: str = "", owner: str = ""
    ) -> Outcome:
        """One attack on one side; what was done before is not done again.

        Args:
            shown_as, owner: the side and the attack under which its pictures are listed, where it is a control.
        """
        key = digest([self.key, self.models[side], planned.attack, config.model_dump(mode="json")])[:24]
        home = self.folder / "attacks" / key if self.folder else None
        found, images = (_read(home) if home else None) or self._made(planned, kind, config, side, home)
        self.pictures[owner or planned.name, shown_as or side] = images
        return found

    def _made(
        self, planned: Planned, kind: Any, config: Any, side: str, home: Path | None
    ) -> tuple[Outcome, list[Image.Image]]:
        family, swaps = self.sides[side]
        where = planned.name if side == "model" else f"{planned.name} on the oracle"
        arena = Arena(family, swaps=swaps, say=lambda what, i, n: self.say(f"{where}: {what}", i, n), **self.shared)
        began = time.perf_counter()
        rounds = kind.attack(arena, config)
        spent = {
            "drawn": arena.drawn,
            "passes": arena.passes,
            "seconds": time.perf_counter() - began,
            "peak_memory_mb": peak_memory_mb(),
            "notes": arena.notes,
        }
        found, images = judged(rounds, self.shared["concept"].name, self.judge, self.second, spent)
        if home is not None:
            _write(home, found, images)
        return found, images

    def _same_words(self, kind: Any, config: Any) -> dict[str, Any]:
        """A control of words puts as many to a prompt as the attack."""
        words = getattr(config, "words", None)
        return {"words": words} if kind.control == "random" and words else {}


def estimate(
    model: Any, suite: str, names: Sequence[str] = (), settings: Mapping[str, Any] | None = None, oracle: bool = False
) -> float:
    """Seconds that a suite will take here, by one timed pass of the model."""
    family, budget = as_family(model), SUITES[suite]
    prompts = family.condition(["a"] * 8)
    latents = torch.randn(8, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((8,), 500.0 if family.prediction == "flow" else 500)
    with torch.no_grad():
        family.predict(latents, t, prompts)
        began = time.perf_counter()
        family.predict(latents, t, prompts)
        one = (time.perf_counter() - began) / 8
    steps = (CANVAS_SAMPLING if is_built_in(family) else SAMPLING).steps
    total = 0.0
    for planned in _planned(suite, names):
        kind, config = _configured(planned, settings or {})
        total += kind.passes(config, budget.tests) + 2 * steps * budget.tests * budget.images
    return one * total * (2 if oracle else 1)


def _planned(suite: str, names: Sequence[str]) -> list[Planned]:
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    every = {p.name: p for p in SUITES[suite].attacks}
    for name in names:
        if name not in every:
            raise unknown(f"attack of the suite '{suite}'", name, every)
    return [every[n] for n in names] or list(every.values())


def _configured(planned: Planned, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """An attack, and its settings: the user's over the suite's over its own."""
    kind = ATTACKS.load(planned.attack)
    own = {k: v for k, v in settings.items() if k in kind.Config.model_fields}
    try:
        return kind, kind.Config.model_validate({**planned.settings, **own})
    except ValidationError as error:
        raise SettingError(f"{planned.attack}: {explain(error, kind.Config.model_fields)}") from error


def _asked(said: Wordings, shared: Mapping[str, Any]) -> str:
    """A digest of all that is the same for every attack."""
    rest = {k: v for k, v in shared.items() if k not in ("original", "guides", "concept")}
    precision = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else ""
    return digest([asdict(shared["concept"]), rest, said.guides, said.other_prompts, precision])


def _untouched(family: Family, base: Family | None) -> Callable[[], AbstractContextManager[Family]]:
    """A context in which the untouched model stands: another model, or this one with its edits taken off."""
    if base is not None:
        return lambda: nullcontext(base)

    @contextmanager
    def without() -> Iterator[Family]:
        with _without(family, in_force(family)):
            yield family

    return without


@contextmanager
def _without(family: Family, edits: Sequence[tuple[Edit, float]]) -> Iterator[None]:
    """Some of the edits in force taken off for a while."""
    for edit, _ in edits:
        edit.remove(family)
    try:
        yield
    finally:
        for edit, strength in edits:
            edit.apply(family, strength, allow_other_base=True)


def _swaps(family: Family) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """By part of the model that edits in force change, a context in which that part is the original one."""
    edits = in_force(family)
    found: dict[str, Callable[[], AbstractContextManager[None]]] = {}
    for part, of_encoder in (("text_encoder", True), ("denoiser", False)):
        if any(_touches(edit, family, of_encoder) for edit, _ in edits):
            found[part] = lambda of_encoder=of_encoder: _only(family, edits, not of_encoder)  # type: ignore[misc]
    return found


@contextmanager
def _only(family: Family, edits: Sequence[tuple[Edit, float]], of_encoder: bool) -> Iterator[None]:
    """The edits in force with what they change in one part alone."""
    with ExitStack() as held:
        held.enter_context(_without(family, edits))
        for edit, strength in edits:
            half = _half(edit, family, of_encoder)
            if half.paths:
                held.enter_context(half.apply(family, strength, allow_other_base=True))
        yield


def _half(edit: Edit, family: Family, of_encoder: bool) -> Edit:
    modules = {p: d for p, d in edit.modules.items() if (p.partition(".")[0] in family.text_encoders) == of_encoder}
    return Edit(edit.record, () if of_encoder else edit.text_maps, modules)


def _touches(edit: Edit, family: Family, of_encoder: bool) -> bool:
    return bool(_half(edit, family, of_encoder).paths)


def _write(home: Path, outcome: Outcome, images: Sequence[Image.Image]) -> None:
    """An outcome and its pictures; the outcome last, which says that all is there."""
    make_folder(home)
    for i, image in enumerate(images):
        write_atomically(home / f"{i:03d}.png", lambda p, image=image: image.save(p, "PNG"), durable=False)  # type: ignore[misc]
    write_json(home / "outcome.json", asdict(outcome))


def _read(home: Path) -> tuple[Outcome, list[Image.Image]] | None:
    try:
        outcome = Outcome(**json.loads((home / "outcome.json").read_text(encoding="utf-8")))
        images = [Image.open(home / f"{i:03d}.png").convert("RGB") for i in range(sum(map(len, outcome.shown)))]
    except (OSError, ValueError, TypeError):
        return None
    return outcome, images
