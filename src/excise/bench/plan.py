"""What a recipe would do: its cells with their pictures, and whether all that they need is here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from excise.bench.recipe import Cell, Recipe, cells
from excise.families.locate import check_model
from excise.judges import JUDGES
from excise.protocols import Protocol, fixed_protocol


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and the number of pictures that it draws with its edit; the untouched model draws as many once."""

    cell: Cell
    pictures: int


def planned(recipe: Recipe) -> list[PlannedCell]:
    """Return the cells of a recipe in its order, with the number of their pictures.

    Raises:
        ConceptError: a protocol cannot judge a concept, or its own file of prompts or names is missing.
    """
    plan = lru_cache(maxsize=None)(_protocol)
    return [PlannedCell(cell, _pictures(cell, plan(cell.protocol))) for cell in cells(recipe)]


def check_ready(recipe: Recipe) -> None:
    """Refuse a recipe whose models or judges are not on this machine, before anything is erased or drawn.

    Raises:
        ModelError: a model is not there (a hub id is not looked up), or files of a judge are missing.
        ConceptError: a protocol's own file of prompts or names is missing.
    """
    for model in recipe.models:
        check_model(model)
    for name in recipe.protocols:
        plan = _protocol(name)
        for judge in filter(None, (plan.judge, plan.second)):
            JUDGES.load(judge)(recipe.judge_weights)


def _protocol(name: str) -> Protocol:
    plan = fixed_protocol(name)
    return plan


def _pictures(cell: Cell, plan: Protocol) -> int:
    targets = [plan.target_of(name) for name in cell.concepts]
    return len(plan.select(targets, cell.groups))
