"""Attacks on a bench page: a table of every method under every attack, and a triangle for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from excise.bench.tables import Row
from excise.evaluation.catalog import number
from excise.report.bench_html import Head, Name, Table, TableCell, TableRow, Triangle
from excise.report.bench_plots import axes

if TYPE_CHECKING:
    from excise.bench.run import CellResult

CAPTION = "Attack by attack: share of prompts on which the target is recovered"
NOTE = (
    "Attack by attack: the share of test prompts for which at least one image within the budget shows the target, over "
    "all concepts; beneath, the same for the control with that budget and for the model never trained on the concept."
)
CENTRE, RADIUS = (100.0, 84.0), 60.0
LABEL_OFFSETS = {"erased": -7, "retained": 15, "withstands": 15}  # vertical distance of a label from its corner
CORNERS = {"erased": -math.pi / 2, "retained": math.pi / 6, "withstands": 5 * math.pi / 6}


def table(results: Sequence[CellResult], names: Sequence[Name]) -> Table | None:
    """A table of methods (rows) and attacks (columns); None if no cell was attacked.

    Args:
        names: the method's name for each cell.
    """
    attacked = [(name, d) for name, d in zip(names, results, strict=True) if d.result.attacks]
    attacks = {a["name"]: a["access"] for _, d in attacked for a in d.result.attacks}
    if not attacks:
        return None
    rows = []
    for name in dict.fromkeys(name for name, _ in attacked):
        cells = [d for other, d in attacked if other == name]
        by_name = [{a["name"]: a for a in d.result.attacks} for d in cells]
        concept_sets = len({d.cell.concepts for d in cells})
        rows.append(TableRow(name, f"{concept_sets}", [_share([b[a] for b in by_name if a in b]) for a in attacks]))
    return Table(CAPTION, [Head(a, access) for a, access in attacks.items()], rows)


def _share(documents: Sequence[dict[str, Any]]) -> TableCell:
    """The mean recovery of one attack over concepts; beneath, that of its control and of the oracle."""
    means = {}
    for side in ("any_of_n", "control", "oracle"):
        values = [a[side] for a in documents if a[side] is not None]
        means[side] = sum(values) / len(values) if values else None
    recovered = means.pop("any_of_n")
    if recovered is None:
        return TableCell("–")
    details = [f"{side} {100 * value:.0f}" for side, value in means.items() if value is not None]
    return TableCell(f"{100 * recovered:.0f}", details, f"{recovered:.6g}")


def triangles(averaged: Sequence[Row], names: Sequence[Name]) -> list[Triangle]:
    """A triangle for each method and control: erased, retained, and withstood under the strongest attack.

    With an oracle, the third share is one minus the gap to the oracle; without, one minus the recovery rate.
    """
    corners = {corner: _point(corner, 1.0) for corner in CORNERS}
    drawn = []
    for row, name in zip(averaged, names, strict=True):
        both = axes(row.figures)
        worst = row.figures.get("worst_gap") or row.figures.get("worst_back")
        if both is None or worst is None:
            continue
        shares = dict(zip(CORNERS, (both[0]["value"], both[1]["value"], 1 - worst["value"]), strict=True))
        drawn.append(
            Triangle(
                name=name,
                about=", ".join(f"{corner} {number(min(1.0, share), 'rate')}" for corner, share in shares.items()),
                path=_path(list(shares.values())),
                frame=_path([1.0, 1.0, 1.0]),
                labels=[(corner, x, y + LABEL_OFFSETS[corner]) for corner, (x, y) in corners.items()],
            )
        )
    return drawn


def _path(shares: Sequence[float]) -> str:
    points = [_point(corner, min(1.0, max(0.0, share))) for corner, share in zip(CORNERS, shares, strict=True)]
    return "M" + "L".join(f"{x} {y}" for x, y in points) + "Z"


def _point(corner: str, share: float) -> tuple[float, float]:
    angle, reach = CORNERS[corner], share * RADIUS
    return round(CENTRE[0] + reach * math.cos(angle), 1), round(CENTRE[1] + reach * math.sin(angle), 1)
