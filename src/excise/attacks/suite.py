"""Attack a model for a concept: a suite of attacks with one budget, beside the controls and the oracle."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import ValidationError

from excise.attacks import ATTACKS, SUITES, Planned
from excise.attacks.accounting import Outcome, Result, Worst, judged, worst
from excise.attacks.base import Arena, AttackError, Guides
from excise.attacks.material import Wordings, calibration, guides, wordings
from excise.attacks.original import Swaps, networks, swaps, untouched
from excise.attacks.panel import Panel, calibrated
from excise.concepts.concept import Concept, same
from excise.concepts.vocabulary import guess_kind
from excise.edits.edit import Edit, applied
from excise.errors import ConceptError, ExciseWarning, ModelError, SettingError, unknown
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.drawing import model_key, peak_memory_mb
from excise.families.fingerprints import raw_bytes
from excise.families.load import as_family
from excise.families.networks import adapters, hooked
from excise.support.digests import digest
from excise.support.files import make_folder, write_atomically, write_json
from excise.support.selection import evenly
from excise.support.strict import explain
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.run import attending
from excise.training.scorers import as_scorer

Say = Callable[[str, int, int], None]
Shot = tuple[Image.Image, str, bool]
Shots = dict[str, list[Shot]]
Side = tuple[Family, Swaps]
"""A model under attack, and what of it can be put back."""
MOST_SHOTS = 8  # of an attack, for the report
VARIANTS = ("form", "given", "part", "pictures", "unrelated", "way")  # settings that a suite names attacks by


@dataclass(frozen=True)
class Attacked:
    """What a suite found.

    Attributes:
        results: in the order of the suite. shots: by attack the strongest pictures of the model under attack, with what
            was asked and whether the target is seen.
        has_oracle: whether gaps are to a model that never knew the concept, or to the controls.
    """

    results: list[Result]
    shots: Shots
    has_oracle: bool
    judge: str

    @property
    def worst(self) -> Worst:
        """The headline."""
        return worst(self.results, self.has_oracle)


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
    (count, each), plan = _budget(suite, tests, images), _planned(suite, names)
    _check_settings(settings or {})
    family, bare = as_family(model), as_family(base) if base is not None else None
    built_in = is_built_in(family) or (bare is not None and is_built_in(bare))
    if isinstance(concept, Concept):
        asked_for = guess_kind(concept, None, built_in)
    else:
        asked_for = target_of(concept, edits, canvas=built_in)
    _check_others(asked_for, others)
    scorer = as_scorer(judge, built_in, [asked_for.name, *others], letter="a")
    if scorer is None:
        raise ConceptError("an attack cannot be scored without looking; give --judge, the folder of a CLIP model.")
    guide = as_scorer(None, built_in) or scorer
    judges = [scorer] if guide is scorer or judge is not None else [scorer, guide]
    said = wordings(asked_for, built_in, others, asked)
    _check_models(family, bare, as_family(oracle) if oracle is not None else None)
    if len(said.tests) < count:
        known = f"only {len(said.tests)} test prompts are known; figures are of those."
        warnings.warn(known, ExciseWarning, stacklevel=2)
    sampling = CANVAS_SAMPLING if built_in else SAMPLING
    plain = untouched(family, bare)
    with applied(family, edits, allow_other_base=allow_other_base), _uncached(family) as precision:
        say("drawing guides", 0, 1)
        guided = guides(plain, said, asked_for.name, guide, sampling, seed)
        panel = calibrated(asked_for.name, judges, lambda: calibration(plain, said, sampling, seed))
        shared = {
            "original": plain,
            "concept": asked_for,
            "tests": evenly(said.tests, count),
            "guides": guided,
            "others": said.others,
            "banned": said.banned,
            "ways": {way: evenly(prompts, count * each) for way, prompts in said.ways.items()},
            "images": each,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "batch": sampling.batch,
            "seed": seed,
        }
        swapped = any(p.attack == "swap" for p in plan)
        sides: dict[str, Side] = {"model": (family, swaps(family, bare) if swapped else {})}
        if oracle is not None:
            sides["oracle"] = (as_family(oracle), {})
        with plain() as standing:
            eyes = [j.key for j in judges if hasattr(j, "key")]
            about = [precision, model_key(standing), version("excise"), panel.name, *eyes]
        runner = _Runner(shared, sides, panel, folder, _asked(said, shared, about), say)
        results = [runner.run(p, settings or {}) for p in plan]
    return Attacked(results, runner.shots, oracle is not None, panel.name)


def _budget(suite: str, tests: int | None, images: int | None) -> tuple[int, int]:
    """Test prompts, and pictures each may have.

    Raises:
        UnknownNameError: there is no such suite. SettingError: the budget is nothing.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    count = SUITES[suite].tests if tests is None else tests
    each = SUITES[suite].images if images is None else images
    if min(count, each) < 1:
        raise SettingError("a budget of no pictures attacks nothing; give --images and --tests of 1 or more.")
    return count, each


def target_of(
    name: str,
    edits: Sequence[Edit] = (),
    kind: str | None = None,
    synonyms: Sequence[str] = (),
    *,
    canvas: bool = False,
) -> Concept:
    """What is attacked for: as it is given, else as the record of an edit has it, else, on Canvas, as known there."""
    recorded = [t for e in edits for t in e.record.concepts if same(t.name) == same(name)]
    if recorded:
        kind, synonyms = kind or recorded[0].kind, synonyms or recorded[0].synonyms
    return replace(guess_kind(Concept(name, kind or "object"), kind, canvas), synonyms=tuple(synonyms))


def _check_others(concept: Concept, others: Sequence[str]) -> None:
    """Refuse the target as one of what it is told from."""
    words = {same(w) for w in concept.words}
    if found := next((o for o in others if same(o) in words), None):
        raise ConceptError(f"'{found}' is the target itself; name other things of its kind with --other.")


@contextmanager
def _uncached(family: Family) -> Iterator[str]:
    """The caller's autocast without its cache, which would keep casts of what attacks train until its own context ends.

    Yields:
        Device and arithmetic in a word.
    """
    kind = family.device.type
    dtype, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    with torch.autocast(kind, dtype=dtype, enabled=on, cache_enabled=False):
        yield f"{kind} {dtype if on else ''}"


def _check_models(family: Family, bare: Family | None, oracle: Family | None) -> None:
    """Refuse a base or an oracle of another make; say what cannot be taken off where no base is given."""
    for other in (bare, oracle):
        _check_alike(family, other)
    if bare is None:
        _warn_of_what_stays(family)


@dataclass
class _Runner:
    """Runs attacks on each side, once each, and keeps what came out."""

    shared: Mapping[str, Any]
    sides: Mapping[str, Side]
    panel: Panel
    folder: Path | None
    key: str
    say: Say

    def __post_init__(self) -> None:
        self.shots: Shots = {}
        self.known: dict[str, tuple[Outcome, list[Shot]]] = {}
        self.searched: dict[str, tuple[list[str], float]] = {}
        self.recalled = 0.0
        self.models = {side: model_key(family) for side, (family, _) in self.sides.items()}

    def run(self, planned: Planned, settings: Mapping[str, Any]) -> Result:
        """One attack on the model, its control, and the oracle."""
        kind, config = _configured(planned, settings)
        facts = (config.model_dump(mode="json"), kind.access, kind.teaches, self.shared["images"])
        about = (planned.name, planned.attack, *facts)
        try:
            model = self.outcome(planned, kind, config, "model")
        except AttackError as error:
            return Result(*about, why=str(error))
        name, own = kind.control(config)
        base = Planned(f"{planned.name}, control", name, own)
        compared = {"control": (base, *_configured(base, {}), "model")}
        if "oracle" in self.sides and planned.attack != "swap":  # an oracle has no parts to put back
            compared["oracle"] = (planned, kind, config, "oracle")
        found: dict[str, Outcome] = {}
        why = ""
        for side, what in compared.items():
            try:
                found[side] = self.outcome(*what)
            except AttackError as error:
                why = f"the {side}: {error}"
        return Result(*about, model=model, control=found.get("control"), oracle=found.get("oracle"), why=why)

    def outcome(self, planned: Planned, kind: Any, config: Any, side: str) -> Outcome:
        """One attack on one side; what was done before is not done again."""
        key = digest([self.key, self.models[side], planned.attack, config.model_dump(mode="json")])[:24]
        if key not in self.known:
            home = self.folder / "attacks" / key if self.folder else None
            found, images = (_read(home) if home else None) or self._made(planned, kind, config, side, home)
            self.known[key] = (found, _strongest(found, images))
        if side == "model":
            self.shots[planned.name] = self.known[key][1]
        return self.known[key][0]

    def _made(
        self, planned: Planned, kind: Any, config: Any, side: str, home: Path | None
    ) -> tuple[Outcome, list[Image.Image]]:
        family, swaps = self.sides[side]
        where = planned.name if side == "model" else f"{planned.name} on the oracle"
        arena = Arena(
            family,
            swaps=swaps,
            say=lambda what, i, n: self.say(f"{where}: {what}", i, n),
            recall=self.recall,
            **self.shared,
        )
        began, self.recalled = time.perf_counter(), 0.0
        with attending(family) if kind.passes(config, 1) else nullcontext():
            rounds = kind.attack(arena, config)
        spent = {
            "drawn": arena.drawn,
            "passes": arena.passes,
            "seconds": time.perf_counter() - began + self.recalled,
            "peak_memory_mb": peak_memory_mb(),
            "notes": arena.notes,
        }
        found, images = judged(rounds, self.panel, spent)
        if home is not None:
            _write(home, found, images)
        return found, images

    def recall(self, name: str, search: Callable[[], list[str]]) -> list[str]:
        """What a search of the untouched model finds: the same on every side and for every edit, so done once.

        Its seconds count wherever it is used.
        """
        key = digest([self.key, name])[:24]
        home = self.folder / "attacks" / f"{key}.json" if self.folder else None
        kept = self.searched.get(key) or (_read_words(home) if home else None)
        if kept is None:
            began = time.perf_counter()
            kept = search(), time.perf_counter() - began
            if home is not None:
                make_folder(home.parent)
                write_json(home, kept)
        else:
            self.recalled += kept[1]
        self.searched[key] = kept
        return kept[0]


def _strongest(outcome: Outcome, images: Sequence[Image.Image]) -> list[Shot]:
    """A few pictures, those first that show the target."""
    words = [w for row in outcome.words for w in row]
    shown = [s for row in outcome.shown for s in row]
    order = sorted(range(len(images)), key=lambda i: not shown[i])[:MOST_SHOTS]
    return [(images[i], words[i], shown[i]) for i in order]


def estimate(
    model: Any,
    suite: str,
    names: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    images: int | None = None,
    tests: int | None = None,
    oracle: bool = False,
) -> float:
    """Seconds that a suite will take here, by one timed pass of the model; what is kept of an earlier run not counted.

    Raises:
        SettingError, UnknownNameError: as `attack`.
    """
    family, (count, each) = as_family(model), _budget(suite, tests, images)
    _check_settings(settings or {})
    plan = [_configured(p, settings or {}) for p in _planned(suite, names)]
    prompts = family.condition(["a"] * 8)
    latents = torch.randn(8, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((8,), 500.0 if family.prediction == "flow" else 500)
    with torch.no_grad():
        family.predict(latents, t, prompts)
        began = time.perf_counter()
        family.predict(latents, t, prompts)
        one = (time.perf_counter() - began) / 8
    drawing = 2 * (CANVAS_SAMPLING if is_built_in(family) else SAMPLING).steps * count * each
    searched = sum(kind.passes(config, count) for kind, config in plan)
    controls = {repr(kind.control(config)) for kind, config in plan}
    total = (searched + drawing * len(plan)) * (2 if oracle else 1) + drawing * len(controls)
    return one * total


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse a setting that no attack has, and one that would make an attack another of its suite."""
    fields = {f for name in ATTACKS for f in ATTACKS.load(name).Config.model_fields}
    for key in settings:
        if key not in fields:
            raise unknown("setting of an attack", key, fields)
        if key in VARIANTS:
            raise SettingError(f"'{key}' tells attacks of a suite apart; choose among them with --attack.")


def _check_alike(family: Family, other: Family | None) -> None:
    """Refuse a base or an oracle of another make.

    Raises:
        ModelError: it is of another family, or draws other latents.
    """
    if other is not None and (other.name, other.latent_shape) != (family.name, family.latent_shape):
        raise ModelError(
            f"the model under attack is of the family '{family.name}' with latents {family.latent_shape}, the base or "
            f"oracle given of '{other.name}' with {other.latent_shape}; give one of the same make."
        )


def _warn_of_what_stays(family: Family) -> None:
    """What is no edit of ours cannot be taken off, so it would be in what is taken for the untouched model."""
    if any(hooked(n) or adapters(n) for n in networks(family)):
        warnings.warn(
            "the model ships hooks or a LoRA, which stay in force in what is taken for the untouched model; give that "
            "one with --base.",
            ExciseWarning,
            stacklevel=4,
        )


def _planned(suite: str, names: Sequence[str]) -> list[Planned]:
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


def _asked(said: Wordings, shared: Mapping[str, Any], about: Sequence[str]) -> str:
    """A digest of what is the same for every attack: prompts, guides, budget, sampler, judges, precision, version."""
    rest = {k: v for k, v in shared.items() if k not in ("original", "guides", "concept")}
    made: Guides = shared["guides"]
    pictures = hashlib.sha256(raw_bytes(torch.cat([made.latents, made.other_latents]))).hexdigest()
    prompts = [said.guides, said.other_prompts, made.prompts, made.others]
    return digest([asdict(shared["concept"]), rest, prompts, pictures, list(about)])


def _write(home: Path, outcome: Outcome, images: Sequence[Image.Image]) -> None:
    """An outcome and its pictures; the outcome last, which says that all is there."""
    make_folder(home)
    for i, image in enumerate(images):
        write_atomically(home / f"{i:03d}.png", lambda p, image=image: image.save(p, "PNG"), durable=False)  # type: ignore[misc]
    write_json(home / "outcome.json", asdict(outcome))


def _read_words(home: Path) -> tuple[list[str], float] | None:
    try:
        words, seconds = json.loads(home.read_text(encoding="utf-8"))
        return [str(w) for w in words], float(seconds)
    except (OSError, ValueError, TypeError):
        return None


def _read(home: Path) -> tuple[Outcome, list[Image.Image]] | None:
    try:
        outcome = Outcome(**json.loads((home / "outcome.json").read_text(encoding="utf-8")))
        images = [Image.open(home / f"{i:03d}.png").convert("RGB") for i in range(sum(map(len, outcome.shown)))]
    except (OSError, ValueError, TypeError, SyntaxError):  # a damaged PNG may be the last
        return None
    return outcome, images
