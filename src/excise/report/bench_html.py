"""The page of a benchmark as plain data, and its rendering to one self-contained HTML file.

Prompts and names are untrusted text: the template escapes everything. Images are inlined. The only script is our own:
the content security policy of the page allows no other, and nothing is loaded from elsewhere.
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

MOST_PIXELS = 320  # longer side of an inlined image


@dataclass(frozen=True)
class Name:
    """A method's name; `control` is empty for a method. `note` is printed beneath the name."""

    text: str
    control: str = ""
    note: str = ""


@dataclass(frozen=True)
class Head:
    """A column heading with its explanation."""

    label: str
    meaning: str = ""


@dataclass(frozen=True)
class TableCell:
    """A table cell: its text, smaller lines beneath it, and its sort key (an empty key sorts last)."""

    text: str
    details: list[str] = field(default_factory=list)
    sort: str = ""


@dataclass(frozen=True)
class TableRow:
    """A table row: the method, its concepts, and one cell for each column."""

    name: Name
    concepts: str
    cells: list[TableCell]


@dataclass(frozen=True)
class Table:
    """A table of methods."""

    caption: str
    heads: list[Head]
    rows: list[TableRow]


@dataclass(frozen=True)
class Point:
    """A point of the scatter with its error bars and its label, in the coordinates of the drawing."""

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
    """A tick: its position in the drawing, and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A scatter plot; `front` is the Pareto front as an SVG path, `about` its text for screen readers."""

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
    """Three shares of one method as a triangle in a frame, both as SVG paths; `labels` are (text, x, y)."""

    name: Name
    about: str
    path: str
    frame: str
    labels: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Shot:
    """One image; `good` is whether the judge saw what the reader hopes for, None where nothing was judged."""

    image: Path | None
    saw: str
    good: bool | None


@dataclass(frozen=True)
class Strip:
    """Images in a grid: prompts with their seeds as columns, methods as rows."""

    title: str
    prompts: list[tuple[str, int]]
    rows: list[tuple[Name, list[Shot]]]


@dataclass(frozen=True)
class Bar:
    """How many images of target prompts show a label; `width` is the bar's length in per cent."""

    label: str
    count: int
    width: float
    is_target: bool = False


@dataclass(frozen=True)
class Bars:
    """What the target prompts of one method show now."""

    name: Name
    bars: list[Bar]
    note: str = ""


@dataclass(frozen=True)
class Damage:
    """Accuracy lost by distance to a target: for each method one cell a bin, and its colour level (0 to 4)."""

    title: str
    bins: list[str]
    rows: list[tuple[Name, list[tuple[TableCell, int]]]]


@dataclass(frozen=True)
class Matrix:
    """UA of each target (column) after each step of a sequence (row), and the rebound of each target at the end."""

    name: Name
    targets: list[str]
    steps: list[list[str]]
    rebound: list[str]


@dataclass(frozen=True)
class Concept:
    """The results for one concept set; `labels` are its targets."""

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
    """The whole page; `summary`, `commands` and `versions` are (name, value) pairs."""

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
    """Return an image file as a data URI, scaled down if it is large; empty if the file is missing or damaged."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a damaged file
        return ""
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return data_uri(image)
