"""Benchmark recipes: a YAML file of methods, concepts, models and protocols, and the cells it expands to. No torch."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from excise.concepts.concept import KINDS, as_concepts, read_names
from excise.errors import ExciseError, unknown
from excise.methods import CONTROLS, METHODS
from excise.methods.fitting import check_fits_model
from excise.protocols import FOR_A_REQUEST, PROTOCOLS, Protocol, fixed_protocol
from excise.support.digests import file_digest, short_digest
from excise.support.strict import Strict, explain, parse_yaml, read_text

SCHEMA = 1


class RecipeError(ExciseError):
    """A recipe that cannot be read or run."""


class MethodEntry(Strict):
    """One method or control of a recipe.

    Attributes:
        name: a method, or identity, noise or oracle. label: its name in tables; `name` by default.
        settings: settings of the method, over its preset.
        advise: choose the strength by a sweep, as `excise erase --advise` does.
        model, without: for an oracle, its model folder and the concepts it was trained without.
    """

    name: str
    label: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    advise: bool = False
    model: str | None = None
    without: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.label or self.name

    @property
    def control(self) -> str:
        """The control this is (identity, noise or oracle); empty for a method."""
        return as_control(self.name)


class AttackEntry(Strict):
    """The suite of attacks that is run on the model of every cell.

    Attributes:
        suite, tests, images, settings: as for `excise attack`. only: attacks of the suite to run; empty for all.
    """

    suite: Literal["quick", "standard", "full"] = "standard"
    tests: int | None = Field(None, ge=1)
    images: int | None = Field(None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    only: tuple[str, ...] = ()


class NamesFile(Strict):
    """A text or CSV file of concepts that are erased together."""

    file: Path


class Recipe(Strict):
    """The content of a recipe file.

    Attributes:
        concepts: each entry is one request: a name, several names erased together, or a file of names. Protocols with
            fixed targets ignore them.
        vocabulary, preserve, preserve_file: as for `excise erase`; the names of the file join those of `preserve`.
        seeds: seeds of the methods. Images use the protocol's seeds.
        groups: parts of the protocols to run; by default those that the protocols name.
        kind: kind of all concepts, as `excise erase --kind`; None guesses it from the name.
        judge: folder of a CLIP model that trained methods and attacks use; built-in models have their own.
        judge_weights: folder of the weights of the protocols' judges, where they do not ship with this package.
        precision: precision of drawing; edits are computed in float64 in any case.
        attack: attacks on every cell of one concept; None for no attacks.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    name: str = "bench"
    models: tuple[str, ...] = ("canvas-sd",)
    protocols: tuple[str, ...] = ("canvas-mini",)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    concepts: tuple[str | tuple[str, ...] | NamesFile, ...] = ()
    vocabulary: str = "auto"
    preserve: tuple[str, ...] = ()
    preserve_file: Path | None = None
    seeds: tuple[int, ...] = (0,)
    groups: tuple[str, ...] | None = None
    kind: str | None = None
    judge: Path | None = None
    judge_weights: Path | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    attack: AttackEntry | None = None


OPTIONAL_IN_KEY = (
    "attack",
    "kind",
    "judge",
    "judge_weights",
    "judge_files",
)  # left out of the key if unset, so old results are found


class Cell(Strict):
    """One run of a recipe: everything its result depends on, except package versions.

    Attributes:
        oracle: the recipe's oracle for these concepts, to compute distances to it.
        judge_files: a digest of the files in `judge_weights`: other weights in the same folder make another cell.
    """

    model: str
    protocol: str
    hash: str
    method: MethodEntry
    concepts: tuple[str, ...]
    vocabulary: str
    preserve: tuple[str, ...]
    seed: int
    groups: tuple[str, ...] | None
    precision: str
    oracle: MethodEntry | None = None
    attack: AttackEntry | None = None
    kind: str | None = None
    judge: str | None = None
    judge_weights: str | None = None
    judge_files: str | None = None

    @property
    def key(self) -> str:
        """Digest of the content; names the cell's files in the result folder."""
        content = self.model_dump(mode="json")
        for entry in (content["method"], content["oracle"] or {}):
            if not entry.get("advise"):  # the field is newer than some results
                entry.pop("advise", None)
        for name in OPTIONAL_IN_KEY:
            if content[name] is None:
                content.pop(name)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @property
    def title(self) -> str:
        """The method and its first concepts, for progress messages."""
        return f"{self.method.title}: {', '.join(self.concepts[:3])}{' ...' if len(self.concepts) > 3 else ''}"


_KNOWN = (*Recipe.model_fields, *MethodEntry.model_fields, *AttackEntry.model_fields, "file")


def read(path: Path) -> Recipe:
    """Read a recipe file, with its paths resolved.

    Raises:
        RecipeError: the file cannot be read, is not YAML, has unknown keys, or names a folder that does not exist.
        UnknownNameError: an unknown method, protocol or concept kind.
        ModelError: a method does not fit one of the models.
    """
    content = parse_yaml(read_text(path, "the recipe", RecipeError), f"the recipe {path}", RecipeError)
    if not isinstance(content, dict):
        raise RecipeError(f"the recipe {path} is no mapping; expected keys such as methods and concepts.")
    entries = content.get("methods")
    if isinstance(entries, list):
        content["methods"] = [{"name": e} if isinstance(e, str) else e for e in entries]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"the recipe {path}: {explain(error, _KNOWN)}") from error
    _check_names(recipe)
    return _with_paths(recipe, path.parent)


def cells(recipe: Recipe) -> Iterator[Cell]:
    """Yield every cell in the order of the recipe, without duplicates.

    Raises:
        ConceptError: a protocol cannot judge a concept.
    """
    seen: set[str] = set()
    for model, protocol in product(recipe.models, recipe.protocols):
        plan = fixed_protocol(protocol)
        for names in requests(recipe, plan):
            for method, seed in product(recipe.methods, recipe.seeds):
                if method.name == "oracle" and not _is_oracle_for(method, names, plan):
                    continue
                cell = _cell(recipe, model, (protocol, plan.hash), names, method, seed)
                if cell.key not in seen:
                    seen.add(cell.key)
                    yield cell


def as_control(name: str) -> str:
    """The name if it is that of a control, else an empty string."""
    return name if name in CONTROLS else ""


def requests(recipe: Recipe, plan: Protocol) -> list[tuple[str, ...]]:
    """Return the concept sets to erase: the protocol's fixed targets, or those of the recipe."""
    every = [plan.fixed_targets] if plan.fixed_targets else [_names(entry) for entry in recipe.concepts]
    for names in every:
        for name in names:
            plan.target_of(name)
    return every


def _names(entry: str | tuple[str, ...] | NamesFile) -> tuple[str, ...]:
    if isinstance(entry, NamesFile):
        entry = tuple(read_names(entry.file, prompts=False))
    names = [entry] if isinstance(entry, str) else entry
    return tuple(c.name for c in as_concepts(names))


def _cell(
    recipe: Recipe, model: str, protocol: tuple[str, str], names: tuple[str, ...], method: MethodEntry, seed: int
) -> Cell:
    """One cell; `protocol` is its name and hash."""
    return Cell(
        model=model,
        protocol=protocol[0],
        hash=protocol[1],
        method=method,
        concepts=names,
        vocabulary=recipe.vocabulary,
        preserve=recipe.preserve,
        seed=seed,
        groups=recipe.groups,
        precision=recipe.precision,
        oracle=next((m for m in recipe.methods if m.name == "oracle" and set(names) <= set(m.without)), None),
        attack=recipe.attack if len(names) == 1 else None,
        kind=recipe.kind,
        judge=str(recipe.judge) if recipe.judge else None,
        judge_weights=str(recipe.judge_weights) if recipe.judge_weights else None,
        judge_files=_digest_of_files(recipe.judge_weights) if recipe.judge_weights else None,
    )


def _digest_of_files(folder: Path) -> str:
    """A digest of the names and contents of all files in a folder."""
    files = [(p, p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
    return short_digest(
        [(p.relative_to(folder).as_posix(), _digest(p, status.st_size, status.st_mtime_ns)) for p, status in files]
    )


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, time: int) -> str:
    """The digest of a file of a size and time, so that a recipe of many cells reads it once."""
    return file_digest(path)


def _is_oracle_for(oracle: MethodEntry, names: Sequence[str], plan: Protocol) -> bool:
    """Whether an oracle was trained without all the names, and the protocol does not depend on the order of erasing."""
    return plan.score != "sequence" and set(names) <= set(oracle.without)


def _check_names(recipe: Recipe) -> None:
    """Refuse unknown kinds, protocols and methods, oracles without a model, and duplicate labels."""
    if recipe.kind is not None and recipe.kind not in KINDS:
        raise unknown("concept kind", recipe.kind, KINDS)
    for protocol in recipe.protocols:
        if protocol in FOR_A_REQUEST:
            fixed_protocol(protocol)
        PROTOCOLS.record(protocol)
    for method in recipe.methods:
        if not method.control:
            METHODS.record(method.name)
            for model in recipe.models:
                check_fits_model(method.name, model)
        if method.name == "oracle" and not (method.model and method.without):
            raise RecipeError(
                "an oracle needs `model`, the folder of a model trained without the concepts, and `without`, their "
                "names; train one with: excise canvas train --without cat --seed 1 --out oracle"
            )
    titles = [m.title for m in recipe.methods]
    duplicate = next((t for t in titles if titles.count(t) > 1), None)
    if duplicate:
        raise RecipeError(f"two methods are called '{duplicate}'; give them different labels.")


def _with_paths(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with its paths resolved: relative to the recipe's folder `home`, else to the working directory."""
    concepts = [NamesFile(file=home / c.file) if isinstance(c, NamesFile) else c for c in recipe.concepts]
    return recipe.model_copy(
        update={
            "concepts": tuple(concepts),
            "methods": tuple(_with_model(method, home) for method in recipe.methods),
            "preserve": _retained(recipe, home),
            "preserve_file": None,
            "judge": _folder(recipe.judge, home),
            "judge_weights": _folder(recipe.judge_weights, home),
        }
    )


def _retained(recipe: Recipe, home: Path) -> tuple[str, ...]:
    """The names to preserve, with those of the recipe's file.

    Raises:
        ConceptError: the file cannot be read or holds no names.
    """
    file = recipe.preserve_file
    if file is None:
        return recipe.preserve
    path = home / file if (home / file).is_file() else file
    return tuple(dict.fromkeys([*recipe.preserve, *read_names(path)]))


def _folder(path: Path | None, home: Path) -> Path | None:
    """A folder that the recipe names.

    Raises:
        RecipeError: it does not exist.
    """
    if path is None:
        return None
    resolved = _first_folder(home / path, path)
    if resolved is None:
        raise RecipeError(f"the recipe names the folder {path}, which is neither beside it nor here.")
    return resolved


def _with_model(method: MethodEntry, home: Path) -> MethodEntry:
    """A method with its oracle's model folder resolved.

    Raises:
        RecipeError: the folder does not exist.
    """
    if method.model is None:
        return method
    resolved = _first_folder(home / method.model, Path(method.model))
    if resolved is None:
        options = " ".join(f"--without {shlex.quote(name)}" for name in method.without)
        raise RecipeError(
            f"the {method.title} of the recipe is not there: no folder {home / method.model}. Train it with: "
            f"excise canvas train {options} --seed 1 --out {shlex.quote(str((home / method.model).parent))}"
        )
    return method.model_copy(update={"model": str(resolved)})


def _first_folder(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_dir()), None)
