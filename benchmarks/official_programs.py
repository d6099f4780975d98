"""Compare `preset=official` with what the papers' own programs give on the built-in model, to the digits.

    python -m benchmarks.official_programs

The programs' changes of the weights lie in tests/data/official, whose README says how they were made. Printed as
Markdown: for each run the largest relative difference of a layer's norm and of its sketch, and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from excise import Concept, erase, load
from excise.bench.tables import markdown
from excise.edits.originals import original_weights
from excise.families.base import Family

DATA = Path(__file__).parents[1] / "tests" / "data" / "official"
ROUNDING = 1e-4  # what two processors' rounding of the text states comes to; another token or scale gives 1e-1
# By file: the method, the kind of its concepts, and what the file says of the settings.
RUNS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "uce-one": ("uce", "object", {}),
    "uce-style": ("uce", "style", {}),
    "uce-three-kept": ("uce", "object", {}),
    "speed-instance": ("speed", "instance", {"augment": "none", "filter": False}),
    "speed-style": ("speed", "style", {"augment": "none", "filter": False}),
    "speed-celebrity": ("speed", "person", {"augment": "none", "filter": False}),
    "speed-explicit": ("speed", "explicit", {"augment": "none", "filter": False}),
    "rece-one": ("rece", "object", {}),
    "rece-two": ("rece", "object", {}),
    "rece-two-rounds": ("rece", "object", {"rounds": 2}),
    "rece-style": ("rece", "style", {}),
    "mace-one": ("mace", "object", {"ridge": 10.0}),
    "mace-guitar": ("mace", "object", {"ridge": 10.0}),
    "mace-two": ("mace", "object", {"ridge": 10.0}),
    "mace-kept": ("mace", "object", {"ridge": 1.0, "retain_scale": 0.8}),
    "scapre-explicit": ("scapre", "object", {"preset": "official-explicit", "noise": 0.0}),
    "scapre-few": ("scapre", "object", {"preset": "official-few"}),
    "scapre-scale": ("scapre", "object", {}),
}


@dataclass(frozen=True)
class Agreement:
    """How far an edit is from a program's.

    Attributes:
        edited, published: paths of the layers that change.
        norm, sketch: the largest relative difference over the layers. allowed: what rounding may make of it.
    """

    edited: frozenset[str]
    published: frozenset[str]
    norm: float
    sketch: float
    allowed: float


def sketch(change: torch.Tensor) -> torch.Tensor:
    """Return the (3, 3) sketch of a change (out, in), as the files have it."""
    j = torch.arange(1, 4).double()
    left, right = (torch.arange(n).double()[:, None] for n in change.shape)
    return torch.cos(1 + left * j).mT @ change @ torch.cos(2 + right * j)


def agreement(canvas: Family, name: str) -> Agreement:
    """Return how far the edit of `preset=official` is from the program's run of that name.

    Args:
        canvas: the built-in model `canvas-sd`.
    """
    method, kind, settings = RUNS[name]
    told = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    targets = zip(told["targets"], told["anchors"], strict=True)
    concepts = [Concept(target, kind, anchor=anchor.strip()) for target, anchor in targets]
    request = {"preset": "official", "vocabulary": None, "preserve": [r for r in told["retain"] if r], **settings}
    edits = [erase(canvas, concepts, method, seed=seed, **request) for seed in range(told.get("seeds", 1))]
    layers, norms, sketches = told["layers"], [0.0], [0.0]
    for path, weight in original_weights(canvas, layers).items():
        change = torch.stack([edit.delta(path, weight.double()) for edit in edits]).mean(dim=0)
        published = torch.tensor(layers[path]["sketch"], dtype=torch.float64)
        norms.append(abs(float(change.norm()) / layers[path]["norm"] - 1))
        sketches.append(float((sketch(change) - published).norm() / published.norm()))
    allowed = max(told["tolerance"], ROUNDING)
    return Agreement(frozenset(edits[0].paths), frozenset(layers), max(norms), max(sketches), allowed)


def main() -> None:
    canvas, rows = load("canvas-sd"), []
    for name in RUNS:
        told = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        a = agreement(canvas, name)
        commit = told["commit"] if " " in told["commit"] else told["commit"][:7]
        program = f"{told['program'].partition(',')[0]}, {commit}"
        rows.append([name, program, f"{len(a.published)}", f"{a.norm:.0e}", f"{a.sketch:.0e}", f"{a.allowed:.0e}"])
    print(markdown(("run", "program", "layers", "norm", "sketch", "allowed"), rows))


if __name__ == "__main__":
    main()
