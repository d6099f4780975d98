"""Measure the effect of the built-in ordinary names as retained prompts: the change of a target and of other objects.

    python -m benchmarks.ordinary_names

On `canvas-sd` with the presets of real models, "cat" is erased without names to retain. The values that cross-attention
projects from it and from 83 other objects, in prompts that no method saw, are compared before and after: the norm of
the change over the norm of the values, by number of templates of each ordinary name.
"""

from __future__ import annotations

from unittest.mock import patch

import torch

import excise
from excise.bench.tables import markdown
from excise.canvas import world
from excise.concepts import vocabulary
from excise.concepts.concept import CHECKS, TEMPLATES
from excise.edits.edit import Edit
from excise.families.base import Family

TARGET = "cat"
METHODS = ("uce", "speed", "rece", "mace", "scapre", "cure")


def main() -> None:
    """Print the table."""
    family = excise.load("canvas-sd", device="cpu")
    others = [n for n in [*world.OBJECTS, *list(world.NAMES)[:60]] if n != TARGET]
    rows = []
    for method in METHODS:
        for templates in (0, 1, 2, 3, 5):
            retained = {kind: some[:templates] for kind, some in TEMPLATES.items()}
            with patch.object(vocabulary, "RETAIN_TEMPLATES", retained):
                name = "ordinary" if templates else None
                edit = excise.erase(family, [TARGET], method, vocabulary=name, preset="object")
            moves = (moved(family, edit, [TARGET] * len(CHECKS["object"])), moved(family, edit, others))
            rows.append([method, str(templates or "none"), *(f"{100 * m:.0f} %" for m in moves)])
    print(markdown(["method", "templates of each name", "target moved", "others moved"], rows, figures=2))


def moved(family: Family, edit: Edit, names: list[str]) -> float:
    """Return the relative change of the value projections of some names, over all layers."""
    checks = CHECKS["object"]
    prompts = [checks[i % len(checks)].replace("{}", name) for i, name in enumerate(names)]
    states = family.encode(prompts, names)
    rows = torch.cat([states.span(i, "from_last") for i in range(len(names))]).double()
    changed = whole = 0.0
    for p in family.projections("v"):
        weight = p.module.weight.detach().double()
        whole += float((rows @ weight.T).square().sum())
        if p.path in edit.paths:
            changed += float((rows @ edit.delta(p.path, weight).T).square().sum())
    return (changed / whole) ** 0.5


if __name__ == "__main__":
    main()
