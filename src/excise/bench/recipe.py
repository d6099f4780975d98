"""A benchmark recipe: methods x concepts x models x protocols in one YAML file, read strictly. No torch here."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from excise.concepts.concept import KINDS, as_concepts, read_names
from excise.errors import ExciseError, unknown
from excise.methods import CONTROLS
from excise.methods.fitting import check_fits_model
from excise.protocols import PROTOCOLS
from excise.support.strict import Strict, explain, parse_yaml, read_text

SCHEMA = 1


class RecipeError(ExciseError):
    """A recipe that cannot be read or run."""


class MethodEntry(Strict):
    """One method or control of a recipe.

    Attributes:
        name: a method, or identity, noise or oracle. label: how tables call it; the name by default.
        settings: of the method, over its preset. advise: take its strength from a sweep, as `excise erase --advise`.
        model, without: for an oracle, the model to draw with and the concepts it never saw.
    """

    name: str
    label: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    advise: bool = False
    model: str | None = None
    without: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.label or self.name


class AttackEntry(Strict):
    """The suite that every cell's model is attacked with, beside the protocol.

    Attributes:
        suite, tests, images, settings: as `excise attack`. only: attacks of the suite; empty for all.
    """

    suite: Literal["quick", "standard", "full"] = "standard"
    tests: int | None = Field(None, ge=1)
    images: int | None = Field(None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    only: tuple[str, ...] = ()


class NamesFile(Strict):
    """Concepts from a text or CSV file, erased together."""

    file: Path


class Recipe(Strict):
    """What `excise bench` runs.

    Attributes:
        concepts: each entry is one cell's request: a name, several names erased together, or a file of names.
            Protocols with fixed targets take their own.
        vocabulary, preserve: as `excise erase`. seeds: of the methods; images have the protocol's.
        groups: parts of the protocols; by default those they name.
        kind: of all concepts, where their names do not tell; as `excise erase --kind`.
        judge: folder of a CLIP model for what looks while an edit is made or attacked; built-in models have their own.
        judge_weights: folder of the protocols' judges, where they do not ship with this package.
        precision: of drawing; edits are made in float64 anyway.
        attack: attacks on every cell of one concept, None for none.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    name: str = "bench"
    models: tuple[str, ...] = ("canvas-sd",)
    protocols: tuple[str, ...] = ("canvas-mini",)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    concepts: tuple[str | tuple[str, ...] | NamesFile, ...] = ()
    vocabulary: str = "auto"
    preserve: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    groups: tuple[str, ...] | None = None
    kind: str | None = None
    judge: Path | None = None
    judge_weights: Path | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    attack: AttackEntry | None = None


LATER = ("attack", "kind", "judge", "judge_weights")  # no part of a key where unset: older results are still found


class Cell(Strict):
    """One run of a recipe: everything its result depends on, beside the versions.

    `oracle` is the recipe's model that never saw these concepts, for the distance to it.
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

    @property
    def key(self) -> str:
        """Content key: names its files in the result folder."""
        content = self.model_dump(mode="json")
        for entry in (content["method"], content["oracle"] or {}):
            if not entry.get("advise"):  # so that results of before it existed are still found
                entry.pop("advise", None)
        for name in LATER:
            if content[name] is None:
                content.pop(name)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.method.title}: {', '.join(self.concepts[:3])}{' ...' if len(self.concepts) > 3 else ''}"


_KNOWN = (*Recipe.model_fields, *MethodEntry.model_fields, *AttackEntry.model_fields, "file")


def read(path: Path) -> Recipe:
    """A recipe from its file.

    Raises:
        RecipeError: it cannot be read, is no YAML, or holds unknown keys.
        UnknownNameError: there is no such method or protocol.
        ModelError: a method does not fit a model.
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
    return _checked(recipe, path.parent)


def cells(recipe: Recipe) -> Iterator[Cell]:
    """Every cell in the order of the recipe; the same cell is never given twice."""
    seen: set[str] = set()
    for model in recipe.models:
        for protocol in recipe.protocols:
            plan = PROTOCOLS.load(protocol)()
            requests = [plan.fixed_targets] if plan.fixed_targets else [_names(entry) for entry in recipe.concepts]
            for names in requests:
                for name in names:
                    plan.target_of(name)
                for method in recipe.methods:
                    if method.name == "oracle" and (plan.score == "sequence" or not set(names) <= set(method.without)):
                        continue  # it says nothing of these concepts, or of the order they went in
                    for seed in recipe.seeds:
                        cell = Cell(
                            model=model,
                            protocol=protocol,
                            hash=plan.hash,
                            method=method,
                            concepts=tuple(names),
                            vocabulary=recipe.vocabulary,
                            preserve=recipe.preserve,
                            seed=seed,
                            groups=recipe.groups,
                            precision=recipe.precision,
                            oracle=_oracle(recipe, names),
                            attack=recipe.attack if len(names) == 1 else None,
                            kind=recipe.kind,
                            judge=str(recipe.judge) if recipe.judge else None,
                            judge_weights=str(recipe.judge_weights) if recipe.judge_weights else None,
                        )
                        if cell.key not in seen:
                            seen.add(cell.key)
                            yield cell


def _checked(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with its files found beside it and its names known."""
    if recipe.kind is not None and recipe.kind not in KINDS:
        raise unknown("concept kind", recipe.kind, KINDS)
    for protocol in recipe.protocols:
        PROTOCOLS.record(protocol)
    for method in recipe.methods:
        if method.name not in CONTROLS:
            for model in recipe.models:
                check_fits_model(method.name, model)
        if method.name == "oracle" and not (method.model and method.without):
            raise RecipeError(
                "an oracle needs `model`, the folder of a model trained without the concepts, and `without`, their "
                "names; train one with: excise canvas train --without cat --seed 1 --out oracle"
            )
    titles = [m.title for m in recipe.methods]
    twice = next((t for t in titles if titles.count(t) > 1), None)
    if twice:
        raise RecipeError(f"two methods are called '{twice}'; give them different labels.")

    def folder(path: Path | None) -> Path | None:
        found = home / path if path and (home / path).is_dir() else path
        if found is not None and not found.is_dir():
            raise RecipeError(f"the recipe names the folder {path}, which is neither beside it nor here.")
        return found

    def at_home(entry: Any) -> Any:
        return NamesFile(file=home / entry.file) if isinstance(entry, NamesFile) else entry

    def beside(method: MethodEntry) -> MethodEntry:
        if method.model is None:
            return method
        found = next((p for p in (home / method.model, Path(method.model)) if p.is_dir()), None)
        if found is None:
            options = " ".join(f"--without {shlex.quote(name)}" for name in method.without)
            raise RecipeError(
                f"the {method.title} of the recipe is not there: no folder {home / method.model}. Train it with: "
                f"excise canvas train {options} --seed 1 --out {shlex.quote(str((home / method.model).parent))}"
            )
        return method.model_copy(update={"model": str(found)})

    return recipe.model_copy(
        update={
            "concepts": tuple(map(at_home, recipe.concepts)),
            "methods": tuple(map(beside, recipe.methods)),
            "judge": folder(recipe.judge),
            "judge_weights": folder(recipe.judge_weights),
        }
    )


def _oracle(recipe: Recipe, names: Sequence[str]) -> MethodEntry | None:
    """The first oracle of the recipe that never saw any of the names."""
    return next((m for m in recipe.methods if m.name == "oracle" and set(names) <= set(m.without)), None)


def _names(entry: str | tuple[str, ...] | NamesFile) -> tuple[str, ...]:
    if isinstance(entry, NamesFile):
        entry = tuple(read_names(entry.file, prompts=False))
    names = [entry] if isinstance(entry, str) else entry
    return tuple(c.name for c in as_concepts(names))
