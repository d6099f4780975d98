"""The tables of docs/methods/README.md are the registries, and every method has a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.families.capabilities import CAPABILITIES
from excise.methods import METHODS
from excise.methods.fitting import families_for

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
