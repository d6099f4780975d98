"""What a bench page shows, as plain data, and the one file it becomes. Nothing is computed here.

Prompts and names are untrusted text: the template escapes everything. Images are inlined; the only script is ours, and
the page's own policy lets no other run and nothing be loaded from outside.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from excise.report.html import Heat, data_uri
from excise.support.files import write_text

MOST_PIXELS = 320  # longer side of an inlined picture


@dataclass(frozen=True)
class Name:
    """A method; `control` says which control it is, or nothing. `note` stands beneath it."""

    text: str
    control: str = ""
    note: str = ""


@dataclass(frozen=True)
class Head:
    """A column; `meaning` explains it."""

    label: str
    meaning: str = ""


@dataclass(frozen=True)
class Figure:
    """A table cell: text, lines beneath it, and what to sort by (empty sorts last)."""

    text: str
    beneath: list[str] = field(default_factory=list)
    sort: str = ""


@dataclass(frozen=True)
class Line:
    """A table row."""

    name: Name
    concepts: str
    figures: list[Figure]


@dataclass(frozen=True)
class Table:
    caption: str
    heads: list[Head]
    lines: list[Line]


@dataclass(frozen=True)
class Point:
    """A point with its error bars and its label, in the coordinates of the drawing."""

    label: str
    about: str
    control: bool
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    label_x: float
    label_y: float
    anchor: str
    leader: bool


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A scatter; `front` is the path of the Pareto front."""

    title: str
    about: str
    x_label: str
    y_label: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[Point]
    front: str = ""


@dataclass(frozen=True)
class Triangle:
    """One method's three shares as a triangle in its frame, both as paths; `labels` are (text, x, y)."""

    name: Name
    about: str
    path: str
    frame: str
    labels: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Shot:
    """One picture; `good` is whether the judge saw what is wished there, None where nothing was judged."""

    image: Path | None
    saw: str
    good: bool | None


@dataclass(frozen=True)
class Strip:
    """Prompts with their seeds as columns, methods as rows."""

    title: str
    prompts: list[tuple[str, int]]
    rows: list[tuple[Name, list[Shot]]]


@dataclass(frozen=True)
class Bar:
    """Images of target prompts that show `label`, as a share of the longest bar."""

    label: str
    count: int
    width: float
    still: bool = False


@dataclass(frozen=True)
class Bars:
    name: Name
    bars: list[Bar]
    note: str = ""


@dataclass(frozen=True)
class Damage:
    """Share lost by distance to a target: per method one figure a bin, with a level 0 to 4 for its colour."""

    title: str
    bins: list[str]
    rows: list[tuple[Name, list[tuple[Figure, int]]]]


@dataclass(frozen=True)
class Matrix:
    """UA of the targets (columns) after each step (rows), and how much came back in the end."""

    name: Name
    targets: list[str]
    steps: list[list[str]]
    rebound: list[str]


@dataclass(frozen=True)
class Concept:
    """Everything about one concept, or some erased together; `labels` are the targets."""

    id: str
    title: str
    labels: list[str]
    strips: list[Strip] = field(default_factory=list)
    heats: list[tuple[Name, Heat]] = field(default_factory=list)
    became: list[Bars] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """The results of one protocol."""

    id: str
    title: str
    tables: list[Table]
    notes: list[str]
    plots: list[Plot]
    triangles: list[Triangle]
    concepts: list[Concept]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class BenchPage:
    """The whole page."""

    title: str
    lead: list[str]
    summary: list[tuple[str, str]]
    parts: list[Part]
    recipe: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)


def render(page: BenchPage, path: Path) -> Path:
    """Write `page` to `path`, atomically."""
    environment = Environment(
        loader=PackageLoader("excise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"picture": picture}
    script = environment.get_template("bench.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("bench.html.j2").render(page=page, script=Markup(script), digest=digest)
    write_text(path, text)
    return path


def picture(path: Path) -> str:
    """An image file as a data URI, made smaller where it is large; empty where it is damaged."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a damaged file
        return ""
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return data_uri(image)
