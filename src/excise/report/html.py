"""A run as one self-contained HTML page. The page shows what it is given and computes nothing.

Prompts and names are untrusted text: the template escapes everything; images are inlined; no script is used.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from excise.report.curves import Curves
from excise.support.files import write_text


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed without and with the edit; `note` says what the judge saw after it."""

    prompt: str
    before: Image.Image
    after: Image.Image
    note: str = ""


@dataclass(frozen=True)
class Heat:
    """One object x style map: a word for the state of each cell (`both`, `object`, `style`, `neither`)."""

    title: str
    objects: list[str]
    styles: list[str]
    states: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """One metric: its estimate before and after, each with value, low, high and n."""

    name: str
    meaning: str
    before: dict[str, float] | None
    after: dict[str, float] | None


@dataclass(frozen=True)
class Block:
    """One attention block: the shares its pictures showed, and some of them."""

    name: str
    erase: float
    retain: float
    chosen: bool
    images: list[Image.Image] = field(default_factory=list)


@dataclass(frozen=True)
class BlockTable:
    """The attention blocks of a network, what is shown of them, and how to read it."""

    title: str
    note: str
    blocks: list[Block]


@dataclass(frozen=True)
class Assault:
    """One attack: shares of test prompts that it brought the target back with, and the strongest of its pictures.

    Attributes:
        bars: by who was attacked (this model, its control, the oracle) the share; None where that was not done.
        gap: this model's share less the oracle's, or the control's.
        shots: pictures, what was asked, and whether the target is seen. why: that it could not be made.
    """

    name: str
    access: str
    bars: dict[str, float | None] = field(default_factory=dict)
    gap: float | None = None
    spent: str = ""
    shots: list[tuple[Image.Image, str, bool]] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True)
class Section:
    """Everything about one erased concept (or one list of concepts)."""

    title: str
    summary: str
    targets: list[Pair] = field(default_factory=list)
    kept: list[Pair] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    heats: list[Heat] = field(default_factory=list)
    became: dict[str, int] = field(default_factory=dict)
    curves: list[Curves] = field(default_factory=list)
    blocks: BlockTable | None = None
    assaults: list[Assault] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The whole page; `facts` are name-value lines on how the numbers came about."""

    title: str
    lead: str
    sections: list[Section]
    facts: list[tuple[str, str]] = field(default_factory=list)


def write(page: Page, path: Path) -> Path:
    """Render `page` to `path`, atomically."""
    environment = Environment(
        loader=PackageLoader("excise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"data_uri": data_uri, "percent": percent, "interval": interval}
    text = environment.get_template("run.html.j2").render(page=page)
    write_text(path, text)
    return path


def data_uri(image: Image.Image) -> str:
    """An image as a data URI: lossless below 128 pixels, compressed above."""
    buffer = io.BytesIO()
    if max(image.size) <= 128:
        image.save(buffer, "WEBP", lossless=True)
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def percent(value: float) -> str:
    """A share as a person reads it.

    >>> percent(0.985)
    '98.5 %'
    """
    return f"{100 * value:.1f} %"


def interval(estimate: dict[str, float]) -> str:
    """The 95 % interval of an estimate.

    >>> interval({"low": 0.9, "high": 1.0})
    '90.0–100.0'
    """
    return f"{100 * estimate['low']:.1f}–{100 * estimate['high']:.1f}"
