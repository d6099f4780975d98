"""The tables of docs/methods/README.md are the registries, and every method has a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from dits import CASES

from excise.errors import ModelError
from excise.families import FAMILIES, family_of
from excise.families.capabilities import CAPABILITIES
from excise.methods import METHODS
from excise.methods.fitting import families_for, methods_for

DOCS = Path(__file__).parents[2] / "docs"
README = (DOCS / "methods" / "README.md").read_text(encoding="utf-8")


def page(name: str) -> Path:
    """The page of a method: docs/<name>.md for SurgUn, docs/methods/<name>.md for all others."""
    above = DOCS / f"{name}.md"
    return above if above.exists() else DOCS / "methods" / f"{name}.md"


def link(name: str) -> str:
    return f"{name}.md" if page(name).parent.name == "methods" else f"../{name}.md"


def methods_table() -> str:
    rows = ["| method | shape | what it does | needs | families | paper |", "|---|---|---|---|---|---|"]
    rows += [
        f"| [`{name}`]({link(name)}) | {r.shape} | {r.title} | {', '.join(sorted(r.needs))} "
        f"| {', '.join(families_for(r))} | {r.paper} |"
        for name, r in METHODS.records().items()
    ]
    return "\n".join(rows)


def capabilities_table() -> str:
    rows = ["| need | a family provides |", "|---|---|"]
    return "\n".join([*rows, *(f"| {name} | {meaning} |" for name, meaning in CAPABILITIES.items())])


@pytest.mark.parametrize("table", [methods_table, capabilities_table])
def test_a_table_of_the_page_is_the_registry(table):
    assert table() in README, f"docs/methods/README.md should have this table:\n{table()}"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_page(name):
    assert page(name).exists()


FAMILIES_PAGE = (DOCS / "families.md").read_text(encoding="utf-8")


def cells(family: str) -> list[str]:
    """The cells of a family's row."""
    row = next(line for line in FAMILIES_PAGE.splitlines() if line.startswith(f"| `{family}` |"))
    return [cell.strip() for cell in row.split("|")[1:-1]]


EVERYWHERE = sorted(set.intersection(*(set(methods_for(r.provides)) for r in FAMILIES.records().values())))
"""The methods that fit every family."""


def test_the_methods_that_fit_every_family_are_named_once():
    sentence = next(line for line in FAMILIES_PAGE.splitlines() if line.startswith("Every family takes "))
    assert sentence == f"Every family takes {', '.join(f'`{m}`' for m in EVERYWHERE)}."


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_a_row_that_tells_its_methods(family):
    """The row of a family names every method that fits it besides those that fit all, and no other."""
    further = cells(family)[4].split(", ")
    assert sorted(further) == sorted(set(methods_for(FAMILIES.record(family).provides)) - set(EVERYWHERE))


@pytest.mark.parametrize("case", CASES)
def test_a_row_tells_the_maps_that_may_be_edited_on_request(case):
    family = family_of(CASES[case].build())
    told = {name for name in cells(family.name)[3].split(", ") if name}

    def has(order: str) -> bool:
        try:
            return bool(family.text_maps(order))
        except ModelError:
            return False

    assert {order for order in ("refined", "joint", "shared") if has(order)} == told
