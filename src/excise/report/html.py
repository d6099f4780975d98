"""The page of one run as plain data, and its rendering to one self-contained HTML file.

Prompts and names are untrusted text: the template escapes everything. Images are inlined, and there is no script.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from excise.evaluation.catalog import Unit, interval, quantity
from excise.report.curves import Chart
from excise.support.files import write_text


@dataclass(frozen=True)
class Pair:
    """Images of the same prompt and seed, without and with the edit; `note` is the judge's verdict on the second."""

    prompt: str
    before: Image.Image
    after: Image.Image
    note: str = ""


State = Literal["good", "warn", "bad", "open"]
"""How an answer stands to the threshold that it is held to: held, undecided or in part, missed, not measured."""


@dataclass(frozen=True)
class Banner:
    """The verdict of a page."""

    text: str
    state: State = "open"


@dataclass(frozen=True)
class Answer:
    """One answer of the verdict panel.

    Attributes:
        question: such as "Is it gone?".
        word: the answer in a word or two; never more than the measurement supports.
        text: the answer in a sentence.
        figures: (name, value): the interval, the number of pictures, the threshold.
        lines: further sentences, each with its state, for example one a concept.
        advice: a sentence on what would answer it better. command: the command that would; empty where there is none.
    """

    question: str
    state: State
    word: str
    text: str
    figures: list[tuple[str, str]] = field(default_factory=list)
    lines: list[tuple[str, State]] = field(default_factory=list)
    advice: str = ""
    command: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts; a row of a state (good, warn, bad, open) has its first cell in that colour."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Heat:
    """An object x style map; the state of each cell is `both`, `object`, `style`, `neither` or `none`."""

    title: str
    objects: list[str]
    styles: list[str]
    states: list[list[str]]


@dataclass(frozen=True)
class MetricRow:
    """One metric in the table: its estimates before and after the edit, each with value, low, high and n."""

    name: str
    meaning: str
    before: dict[str, float] | None
    after: dict[str, float] | None
    unit: Unit = "rate"


@dataclass(frozen=True)
class Block:
    """One attention block: its erase and retain rates, whether it was trained, and some of its images."""

    name: str
    erase: float
    retain: float
    chosen: bool
    images: list[Image.Image] = field(default_factory=list)


@dataclass(frozen=True)
class BlockTable:
    """The attention blocks of a network, with a heading and a note on how to read them."""

    title: str
    note: str
    blocks: list[Block]


@dataclass(frozen=True)
class AttackRow:
    """One attack: how often it recovered the target, and its strongest images.

    Attributes:
        bars: the share of test prompts that showed the target, by model attacked (`model`, `control`, `oracle`); None
            where the attack was not run.
        gap: the model's share minus the oracle's, or minus the control's where there is no oracle.
        cost: the budget that was used, as a sentence.
        shots: (image, prompt, whether the target is seen).
        failure: why the attack could not be run; empty if it was.
    """

    name: str
    access: str
    bars: dict[str, float | None] = field(default_factory=dict)
    gap: float | None = None
    cost: str = ""
    shots: list[tuple[Image.Image, str, bool]] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True)
class Section:
    """The results for one erased concept, or for several that were erased together.

    Attributes:
        answers: the verdict panel.
        targets, retained: image pairs of prompts that ask for a target, and of other prompts.
        table: a table in the place of metrics.
        thresholds: a detector's counts over its threshold.
        became: how many images of target prompts show each label now.
        record: the record in the edit file. commands: (purpose, command line).
    """

    title: str
    summary: str
    answers: list[Answer] = field(default_factory=list)
    targets: list[Pair] = field(default_factory=list)
    retained: list[Pair] = field(default_factory=list)
    metrics: list[MetricRow] = field(default_factory=list)
    table: Table | None = None
    heats: list[Heat] = field(default_factory=list)
    became: dict[str, int] = field(default_factory=dict)
    thresholds: list[Chart] = field(default_factory=list)
    curves: list[Chart] = field(default_factory=list)
    blocks: BlockTable | None = None
    attacks: list[AttackRow] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
        facts: (name, value) pairs on how the numbers were obtained.
        banners: verdicts on the whole page, beside the panels of its sections.
    """

    title: str
    lead: str
    sections: list[Section]
    facts: list[tuple[str, str]] = field(default_factory=list)
    banners: list[Banner] = field(default_factory=list)


def write(page: Page, path: Path) -> Path:
    """Render `page` to `path`, atomically."""
    environment = Environment(
        loader=PackageLoader("excise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"data_uri": data_uri, "quantity": quantity, "interval": interval, "together": together}
    text = environment.get_template("run.html.j2").render(page=page)
    write_text(path, text)
    return path


def together(text: str) -> str:
    """Return a text whose numbers stay on a line with their per cent sign.

    >>> together("50 %") == "50\\N{NO-BREAK SPACE}%"
    True
    """
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def data_uri(image: Image.Image) -> str:
    """Return an image as a data URI: lossless up to 128 pixels, compressed above."""
    buffer = io.BytesIO()
    if max(image.size) <= 128:
        image.save(buffer, "WEBP", lossless=True)
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
