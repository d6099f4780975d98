"""The erase-retain scatter: the positions of points, error bars, labels and the Pareto front in the drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from excise.bench.tables import Figure
from excise.report.bench_html import Plot, Point, Tick

WIDTH, HEIGHT = 474, 380
LEFT, RIGHT, TOP, BOTTOM = 50, 404, 20, 330  # labels may lie right of the frame and above it
LETTER, LINE = 8.0, 16.0  # the size of a letter and of a line of a label
ANGLES = (0, math.pi, 0.6, math.pi - 0.6, -0.6, math.pi + 0.6, 1.1, math.pi - 1.1, 1.8, -1.8)
OFFSETS = [(math.cos(a) * r, math.sin(a) * r) for r in (11, 17, 24, 34, 48, 64, 84, 108, 136) for a in ANGLES]
Box = tuple[float, float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One method: its erase rate (x) and its retain rate (y)."""

    label: str
    control: bool
    erase: Figure
    retain: Figure


def axes(figures: dict[str, Figure]) -> tuple[Figure, Figure] | None:
    """Erase and retain rates of a row: UA and the mean retain accuracy, or 1 - Acc_e and Acc_r; None without them.

    The retain accuracies are measured on the same images, so the interval of their mean is the mean of the intervals.
    """
    if "acc_e" in figures and "acc_r" in figures:
        e = figures["acc_e"]
        erase = {"value": 1 - e["value"], "low": 1 - e["high"], "high": 1 - e["low"], "n": e["n"]}
        return erase, figures["acc_r"]
    for names in (("ira", "cra"), ("sc", "oc", "up")):
        if "ua" in figures and all(n in figures for n in names):
            retain = [figures[n] for n in names]
            return figures["ua"], {k: sum(f[k] for f in retain) / len(retain) for k in ("value", "low", "high", "n")}
    return None


def front(marks: Sequence[Mark]) -> list[Mark]:
    """The Pareto front of the methods, from left to right. Controls are left out."""
    best: list[Mark] = []
    for mark in sorted((m for m in marks if not m.control), key=lambda m: (-m.erase["value"], -m.retain["value"])):
        if not best or mark.retain["value"] > best[-1].retain["value"]:
            best.append(mark)
    return best[::-1]


def plots(marks: Sequence[Mark], x_label: str, y_label: str) -> list[Plot]:
    """The whole unit square, and a closer view of the methods where they crowd one corner."""
    if not marks:
        return []
    whole = scatter("All methods and controls", marks, x_label, y_label, (0.0, 1.0), (0.0, 1.0))
    methods = [m for m in marks if not m.control]
    ranges = [_range([m.erase for m in methods]), _range([m.retain for m in methods])] if len(methods) > 1 else []
    if not ranges or min(high - low for low, high in ranges) > 0.6:
        return [whole]
    return [whole, scatter("The methods alone, enlarged", methods, x_label, y_label, ranges[0], ranges[1])]


@dataclass(frozen=True)
class Scale:
    """Maps values to positions in the drawing."""

    xs: Range
    ys: Range

    def x(self, value: float) -> float:
        """Horizontal position; values outside the range lie on the frame."""
        return round(LEFT + (RIGHT - LEFT) * _share(value, self.xs), 1)

    def y(self, value: float) -> float:
        """Vertical position; values outside the range lie on the frame."""
        return round(BOTTOM - (BOTTOM - TOP) * _share(value, self.ys), 1)

    def centre(self, mark: Mark) -> tuple[float, float]:
        """The position of a mark."""
        return self.x(mark.erase["value"]), self.y(mark.retain["value"])


def scatter(title: str, marks: Sequence[Mark], x_label: str, y_label: str, xs: Range, ys: Range) -> Plot:
    """Lay out one scatter plot over the given ranges."""
    scale = Scale(xs, ys)
    points = _points(marks, scale)
    best = front(marks)
    corners = [scale.centre(m) for m in best]
    steps = "".join(f"V{cy}H{cx}" for cx, cy in corners)
    return Plot(
        title=title,
        about="; ".join(p.about for p in points) + f". Pareto front: {', '.join(m.label for m in best) or 'none'}.",
        x_label=x_label,
        y_label=y_label,
        width=WIDTH,
        height=HEIGHT,
        box=(LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP),
        x_ticks=[Tick(scale.x(v), f"{100 * v:.0f}") for v in _ticks(xs)],
        y_ticks=[Tick(scale.y(v), f"{100 * v:.0f}") for v in _ticks(ys)],
        points=points,
        front=f"M{LEFT} {corners[0][1]}{steps}V{BOTTOM}" if corners else "",
    )


def _points(marks: Sequence[Mark], scale: Scale) -> list[Point]:
    """Points with error bars and labels; labels avoid each other, the points and the error bars."""
    x, y = scale.x, scale.y
    centres = [scale.centre(m) for m in marks]
    solid: list[Box] = [(cx - 6, cy - 6, cx + 6, cy + 6) for cx, cy in centres]
    thin: list[Box] = []
    for mark, (cx, cy) in zip(marks, centres, strict=True):
        thin.append((x(mark.erase["low"]), cy - 2, x(mark.erase["high"]), cy + 2))
        thin.append((cx - 2, y(mark.retain["high"]), cx + 2, y(mark.retain["low"])))
    points = []
    # Labels are placed from the top right corner on, where good methods crowd.
    for mark, (cx, cy) in sorted(zip(marks, centres, strict=True), key=lambda pair: (pair[1][1], -pair[1][0])):
        box, anchor, needs_leader = _place(mark.label, cx, cy, solid, thin)
        solid.append(box)
        points.append(
            Point(
                label=mark.label,
                about=f"{mark.label}: erase {_text(mark.erase)}, retain {_text(mark.retain)}",
                control=mark.control,
                x=cx,
                y=cy,
                left=x(mark.erase["low"]),
                right=x(mark.erase["high"]),
                top=y(mark.retain["high"]),
                bottom=y(mark.retain["low"]),
                label_x=round(box[0] if anchor == "start" else box[2], 1),
                label_y=round(box[3] - 3, 1),
                anchor=anchor,
                leader=needs_leader,
            )
        )
    return points


def _place(label: str, cx: float, cy: float, solid: Sequence[Box], thin: Sequence[Box]) -> tuple[Box, str, bool]:
    """The nearest free place for a label: its box, its text anchor, and whether it needs a leader line.

    Args:
        solid: points and labels, which a leader must not cross. thin: error bars.
    """
    width = LETTER * len(label)
    boxes = []
    for dx, dy in OFFSETS:
        left = cx + dx if dx > -1 else cx + dx - width
        boxes.append(((left, cy + dy - LINE / 2, left + width, cy + dy + LINE / 2), "start" if dx > -1 else "end"))
    inside = [(b, a) for b, a in boxes if b[0] >= LEFT + 3 and b[2] <= WIDTH and b[1] >= 2 and b[3] <= BOTTOM]
    free = [(b, a) for b, a in inside if not any(overlap(b, other) for other in (*solid, *thin))]
    clear = [(b, a) for b, a in free if not _crosses((cx, cy), b, a, solid)]
    box, anchor = (clear or free or inside or boxes)[0]
    near = box[0] - 20 <= cx <= box[2] + 20 and box[1] - 12 <= cy <= box[3] + 12
    return box, anchor, not near


def _crosses(start: tuple[float, float], box: Box, anchor: str, solid: Sequence[Box]) -> bool:
    """Whether a line from a point to its label crosses another point or label."""
    end = (box[0] if anchor == "start" else box[2], box[3] - 7)
    own = (start[0] - 6, start[1] - 6, start[0] + 6, start[1] + 6)
    for i in range(1, 16):
        px, py = (a + (b - a) * i / 16 for a, b in zip(start, end, strict=True))
        if any(overlap((px - 1, py - 1, px + 1, py + 1), other) for other in solid if other != own):
            return True
    return False


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _share(value: float, over: Range) -> float:
    return min(1.0, max(0.0, (value - over[0]) / (over[1] - over[0])))


def _range(figures: Sequence[Figure]) -> Range:
    """A range that holds every error bar, with round ends, at least 0.1 wide."""
    low, high = min(f["low"] for f in figures), max(f["high"] for f in figures)
    low, high = max(0.0, math.floor((low - 0.01) * 20) / 20), min(1.0, math.ceil((high + 0.01) * 20) / 20)
    return (low, high) if high - low >= 0.1 else (max(0.0, high - 0.1), max(0.1, high))


def _ticks(over: Range) -> list[float]:
    span = over[1] - over[0]
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if span / s <= 6)
    first = math.ceil(over[0] / step - 1e-9)
    return [round(i * step, 4) for i in range(first, math.floor(over[1] / step + 1e-9) + 1)]


def _text(figure: Figure) -> str:
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f}–{100 * figure['high']:.1f})"
