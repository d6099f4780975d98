"""How edits, results and requests show themselves: five lines in a terminal, HTML with pictures in a notebook.

A class describes itself once, as a `Card`; `Showing` turns the card into `__repr__` and `_repr_html_`. Names and
prompts are untrusted text, so everything is escaped; pictures are inlined as thumbnails, and there is no script.
Nothing here imports torch.
"""

from __future__ import annotations

import base64
import html
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

LINES, WIDTH = 5, 100  # of a `__repr__`, at most
PICTURES = 8  # in a row, at most
SIDE = 160  # of a thumbnail, in pixels


@dataclass(frozen=True)
class Picture:
    """A picture with what stands under it; `mark` is whether a judge sees the concept, None where none looked."""

    image: Image.Image
    caption: str = ""
    mark: bool | None = None


@dataclass(frozen=True)
class Card:
    """What an object shows of itself.

    Attributes:
        title: one line.
        facts: (name, value), the most important first; a terminal shows the first four.
        head, rows: a table, in a notebook alone.
        pictures: rows of pictures, each with its name, in a notebook alone.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[tuple[str, Sequence[Picture]]] = ()


class Showing(ABC):
    """A class that shows itself by its card. A data class derived from it is declared with `repr=False`."""

    @abstractmethod
    def card(self) -> Card:
        """Describe the object."""

    def __repr__(self) -> str:
        return as_text(self.card())

    def __str__(self) -> str:
        return self.__repr__()

    def _repr_html_(self) -> str:
        return as_html(self.card())


def as_text(card: Card) -> str:
    """Return a card as at most five lines of at most 100 characters.

    >>> print(as_text(Card("Edit: removes cat", [("from", "canvas-sd"), ("settings", "")])))
    Edit: removes cat
      from      canvas-sd
    """
    facts = [(name, value) for name, value in card.facts if value][: LINES - 1]
    width = max((len(name) for name, _ in facts), default=0)
    lines = [card.title, *(f"  {name:<{max(width, 9)}} {value}" for name, value in facts)]
    return "\n".join(_cut(" ".join(line.split("\n")), WIDTH) for line in lines)


def as_html(card: Card) -> str:
    """Return a card as a piece of HTML that needs nothing else."""
    parts = [f"<strong>{_escape(card.title)}</strong>"]
    facts = [(name, value) for name, value in card.facts if value]
    if facts:
        parts.append(_table([], facts))
    if card.rows:
        parts.append(_table(card.head, card.rows))
    for name, pictures in card.pictures:
        if pictures:
            parts.append(f"<div>{_escape(name)}</div><div>{''.join(map(_figure, pictures[:PICTURES]))}</div>")
    return f'<div class="excise" style="max-width: 60em">{"".join(parts)}</div>'


def charts(pictures: Mapping[str, Mapping[str, Sequence[Image.Image]]]) -> list[tuple[str, list[Picture]]]:
    """Return rows of pictures by the name of their chart and of their row, as methods give them."""
    return [
        (f"{chart}, {row}", [Picture(image) for image in images])
        for chart, rows in pictures.items()
        for row, images in rows.items()
    ]


def seconds_text(seconds: Mapping[str, float]) -> str:
    """Return durations by stage.

    >>> seconds_text({"encode": 0.24, "solve": 1.0})
    'encode 0.2 s, solve 1.0 s'
    """
    return ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())


def described(title: str, record: Any) -> Card:
    """Return a card of a data class by its fields: shapes of tensors, counts of long lists, texts as they are.

    >>> described("Picture", Picture(None, "a dot")).facts[1]
    ('caption', 'a dot')
    """
    return Card(title, [(field.name, _brief(getattr(record, field.name))) for field in fields(record)])


def thumbnail(image: Image.Image) -> str:
    """Return an image as a data URI of at most `SIDE` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def some(names: Sequence[str], most: int = 6) -> str:
    """Return the first names of a list, and how many there are in all.

    >>> some(["a", "b", "c"], 2)
    'a, b, ... (3 in all)'
    """
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text}, ... ({len(names)} in all)"


def _brief(value: Any) -> str:
    """A value in a few words; empty where it says nothing."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if value is None or callable(value):
        return ""
    if isinstance(value, Mapping):
        return some([f"{key}: {_brief(part)}" for key, part in value.items()], 3)
    if isinstance(value, (list, tuple)):
        return some([_brief(part) for part in value], 4)
    if isinstance(value, (str, int, float)):
        return str(value)
    name = getattr(value, "name", None)
    return f"{type(value).__name__} {name}" if isinstance(name, str) else type(value).__name__


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        styled = f'<{tag} style="text-align: left; vertical-align: top">'
        return f"<tr>{''.join(f'{styled}{_escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(head, 'th') if head else ''}{''.join(line(row, 'td') for row in rows)}</table>"


def _figure(picture: Picture) -> str:
    # Sign and line differ as well as the colour; both colours stand out on light and on dark pages.
    border = {None: "solid transparent", True: "solid #d9433a", False: "dotted #3c8f45"}[picture.mark]
    sign = {None: "", True: "\N{BLACK CIRCLE} ", False: "\N{WHITE CIRCLE} "}[picture.mark]
    caption = _escape(sign + _cut(picture.caption, 60))
    return (
        '<figure style="display: inline-block; margin: 4px; text-align: center; vertical-align: top">'
        f'<img alt="{caption}" src="{thumbnail(picture.image)}" style="border: 2px {border}">'
        f'<figcaption style="font-size: 80%; max-width: {SIDE}px">{caption}</figcaption></figure>'
    )


def _escape(text: str) -> str:
    return html.escape(str(text))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
