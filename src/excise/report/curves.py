"""Line charts: the positions of lines, ticks and labels in the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 410, 12, 168
KEPT = "the step that was kept"


@dataclass(frozen=True)
class Curve:
    """One line: its name, its points in SVG syntax, and the index of its colour."""

    name: str
    points: str
    colour: int


@dataclass(frozen=True)
class AxisTick:
    """A tick: its position in the drawing, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart over steps.

    Attributes:
        chosen: position of the step that is marked; None if there is none.
        chosen_is: what is said of it.
    """

    title: str
    lines: list[Curve]
    x_ticks: list[AxisTick]
    y_ticks: list[AxisTick]
    chosen: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = (LEFT, TOP, RIGHT, BOTTOM)
    chosen_is: str = KEPT


def chart(
    title: str,
    steps: Sequence[int],
    values: Mapping[str, Sequence[float]],
    top: float | None = None,
    chosen: float | None = None,
    labels: Sequence[str] | None = None,
    chosen_is: str = KEPT,
) -> Chart:
    """Lay out one line for each entry of `values`, from 0 to `top`. Values that are not finite leave a gap.

    Args:
        top: the upper end of the y axis; None takes the largest value.
        chosen: the step to mark. chosen_is: what is said of it.
        labels: one for each step, instead of five numbers along the axis.
    """
    largest = max((v for line in values.values() for v in line if isfinite(v)), default=1.0)
    height, last = top or largest or 1.0, max(steps) or 1

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, value / height)), 1)

    def points(line: Sequence[float]) -> str:
        return " ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, line, strict=True) if isfinite(v))

    return Chart(
        title,
        [Curve(name, points(line), i) for i, (name, line) in enumerate(values.items())],
        [AxisTick(x(last * i / 4), f"{last * i / 4:g}") for i in range(5)]
        if labels is None
        else [AxisTick(x(s), label) for s, label in zip(steps, labels, strict=True)],
        [AxisTick(y(height * i / 4), f"{height * i / 4:.2g}") for i in range(5)],
        x(chosen) if chosen is not None else None,
        chosen_is=chosen_is,
    )
