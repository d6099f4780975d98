"""What a recipe would do: its cells with their pictures, and whether all that they need is here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from excise.bench.recipe import Cell, Recipe, cells, requests
from excise.concepts.concept import Concept
from excise.concepts.vocabulary import kind_in
from excise.families.locate import check_model
from excise.families.usual import usual_of
from excise.judges import JUDGES
from excise.methods import settings_of
from excise.protocols import Protocol, fixed_protocol
from excise.support.settings import configure
from excise.training.scorers import as_scorer


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and the prompts and seeds that it draws with its edit, without those of attacks."""

    cell: Cell
    requests: frozenset[tuple[str, int]]

    @property
    def pictures(self) -> int:
        """How many images that is."""
        return len(self.requests)


def planned(recipe: Recipe) -> list[PlannedCell]:
    """Return the cells of a recipe in its order, with the number of their pictures.

    Raises:
        ConceptError: a protocol cannot judge a concept, or its own file of prompts or names is missing.
    """
    plan = cache(fixed_protocol)
    return [PlannedCell(cell, _requests(cell, plan(cell.protocol))) for cell in cells(recipe)]


def untouched_pictures(plan: Iterable[PlannedCell]) -> int:
    """Return how many images the untouched models draw: each prompt and seed once for a model and protocol."""
    drawn: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for p in plan:
        drawn.setdefault((p.cell.model, p.cell.protocol), set()).update(p.requests)
    return sum(map(len, drawn.values()))


def check_ready(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be run on this machine, before anything is erased or drawn.

    Raises:
        ModelError: a model is not there (a hub id is not looked up), or files of a judge are missing.
        ConceptError: a protocol's own file of prompts or names is missing.
        SettingError: a method or an attack does not take its settings.
        UnknownNameError: the suite of attacks has no such attack.
    """
    for model in recipe.models:
        check_model(model)
        usual = usual_of(model)
        for method in recipe.methods:
            for kind in _kinds(recipe, bool(usual.presets)) if not method.control else ():
                configure(settings_of(method.name), method.name, method.settings, kind, usual)
    if recipe.attack is not None:
        from excise.attacks.suite import SuiteOptions

        _ = SuiteOptions(suite=recipe.attack.suite, names=recipe.attack.only, settings=recipe.attack.settings).plan
    if recipe.judge is not None:
        as_scorer(recipe.judge, built_in=False)
    for name in recipe.protocols:
        plan = fixed_protocol(name)
        for judge in filter(None, (plan.judge, plan.second)):
            JUDGES.load(judge)(recipe.judge_weights)


def _kinds(recipe: Recipe, built_in: bool) -> list[str]:
    """The kinds whose presets the edits have: that of the first name of each; in a sequence every name is a first."""
    names: list[str] = []
    for plan in map(fixed_protocol, recipe.protocols):
        for entry in requests(recipe, plan):
            names += entry if plan.score == "sequence" else entry[:1]
    given = recipe.kind or "object"
    return [*dict.fromkeys(kind_in(Concept(n, given), recipe.kind, recipe.vocabulary, built_in) for n in names)]


def _requests(cell: Cell, plan: Protocol) -> frozenset[tuple[str, int]]:
    targets = [plan.target_of(name) for name in cell.concepts]
    return frozenset((item.prompt, plan.seed(item)) for item in plan.select(targets, cell.groups))
