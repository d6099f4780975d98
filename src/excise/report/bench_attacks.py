"""What a bench page shows of attacks: every method under every attack, and erased, kept and withstood as a triangle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from excise.bench import tables
from excise.bench.tables import Row
from excise.report.bench_html import Figure, Head, Line, Name, Table, Triangle
from excise.report.bench_plots import axes

if TYPE_CHECKING:
    from excise.bench.run import Done

CAPTION = "Attack by attack: share of prompts that the target comes back on"
NOTE = (
    "Attack by attack: the share of test prompts of which any picture within the budget shows the target, over all "
    "concepts; beneath, the same of the control with that budget and of the model that never knew it."
)
CENTRE, RADIUS = (100.0, 84.0), 60.0
BESIDE = {"erased": -7, "kept": 15, "withstands": 15}  # of a label below its corner
CORNERS = {"erased": -math.pi / 2, "kept": math.pi / 6, "withstands": 5 * math.pi / 6}


def table(done: Sequence[Done], names: Sequence[Name]) -> Table | None:
    """Methods as rows, attacks as columns; None where nothing was attacked.

    Args:
        names: what to call each cell.
    """
    attacked = [(name, d) for name, d in zip(names, done, strict=True) if d.result.attacks]
    attacks = {a["name"]: a["access"] for _, d in attacked for a in d.result.attacks}
    if not attacks:
        return None
    lines = []
    for name in dict.fromkeys(name for name, _ in attacked):
        cells = [d for other, d in attacked if other == name]
        found = [{a["name"]: a for a in d.result.attacks} for d in cells]
        sets = f"{len({d.cell.concepts for d in cells})}"
        lines.append(Line(name, sets, [_share([f[a] for f in found if a in f]) for a in attacks]))
    return Table(CAPTION, [Head(a, access) for a, access in attacks.items()], lines)


def _share(of: Sequence[dict[str, Any]]) -> Figure:
    """The mean over concepts of what one attack brought back, and beneath it of its control and of the oracle."""
    means = {}
    for side in ("any_of_n", "control", "oracle"):
        values = [a[side] for a in of if a[side] is not None]
        means[side] = sum(values) / len(values) if values else None
    back = means.pop("any_of_n")
    if back is None:
        return Figure("–")
    beneath = [f"{side} {100 * value:.0f}" for side, value in means.items() if value is not None]
    return Figure(f"{100 * back:.0f}", beneath, f"{back:.6g}")


def triangles(averaged: Sequence[Row], names: Sequence[Name]) -> list[Triangle]:
    """A triangle a method, controls too: how much is erased, how much is kept, how well it withstands the worst attack.

    Where there was an oracle, what counts is how much more often than on that one the worst attack succeeds.
    """
    corners = {what: _point(what, 1.0) for what in CORNERS}
    found = []
    for row, name in zip(averaged, names, strict=True):
        both = axes(row.figures)
        worst = row.figures.get("worst_gap") or row.figures.get("worst_back")
        if both is None or worst is None:
            continue
        shares = dict(zip(CORNERS, (both[0]["value"], both[1]["value"], 1 - worst["value"]), strict=True))
        about = ", ".join(f"{what} {tables.number(min(1.0, share), 'rate')}" for what, share in shares.items())
        found.append(
            Triangle(
                name=name,
                about=about,
                path=_path(list(shares.values())),
                frame=_path([1.0, 1.0, 1.0]),
                labels=[(what, x, y + BESIDE[what]) for what, (x, y) in corners.items()],
            )
        )
    return found


def _path(shares: Sequence[float]) -> str:
    points = [_point(what, min(1.0, max(0.0, share))) for what, share in zip(CORNERS, shares, strict=True)]
    return "M" + "L".join(f"{x} {y}" for x, y in points) + "Z"


def _point(corner: str, share: float) -> tuple[float, float]:
    angle, reach = CORNERS[corner], share * RADIUS
    return round(CENTRE[0] + reach * math.cos(angle), 1), round(CENTRE[1] + reach * math.sin(angle), 1)
