"""Line charts of a training run: where lines, ticks and labels stand in the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 410, 12, 168


@dataclass(frozen=True)
class Line:
    """One line: its name, its points as SVG has them, and the number of its colour."""

    name: str
    points: str
    colour: int


@dataclass(frozen=True)
class Mark:
    """A tick: its place on the axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Curves:
    """A chart over steps; `chosen` is the place of the step that was kept, None without one."""

    title: str
    lines: list[Line]
    xs: list[Mark]
    ys: list[Mark]
    chosen: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = (LEFT, TOP, RIGHT, BOTTOM)


def curves(
    title: str,
    steps: Sequence[int],
    values: Mapping[str, Sequence[float]],
    top: float | None = None,
    chosen: int | None = None,
    labels: Sequence[str] | None = None,
) -> Curves:
    """Lines over steps, from 0 to `top` (the largest value where None); what is not finite leaves a gap.

    Args:
        labels: one a step, in place of five numbers along the axis.
    """
    finite = [v for line in values.values() for v in line if v == v and abs(v) != float("inf")]
    most, last = top or max(finite, default=1.0) or 1.0, max(steps)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, value / most)), 1)

    def points(line: Sequence[float]) -> str:
        return " ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, line, strict=True) if v == v and v != float("inf"))

    return Curves(
        title,
        [Line(name, points(line), i) for i, (name, line) in enumerate(values.items())],
        [Mark(x(last * i / 4), f"{last * i / 4:g}") for i in range(5)]
        if labels is None
        else [Mark(x(s), label) for s, label in zip(steps, labels, strict=True)],
        [Mark(y(most * i / 4), f"{most * i / 4:.2g}") for i in range(5)],
        x(chosen) if chosen is not None else None,
    )
