"""The object x style map of an evaluation, for the run page and the bench page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from excise.report.html import Heat

if TYPE_CHECKING:
    from excise.evaluation.scoring import Shown


def heat(shown: Sequence[Shown], title: str) -> Heat | None:
    """Return which cells of the object x style grid are right, by majority of their images; None without a grid."""
    cells: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for s in shown:
        if s.group == "grid" and "object" in s.asked and "style" in s.asked:
            right = (s.right("object"), s.right("style"))
            cells.setdefault((s.asked["object"], s.asked["style"]), []).append(right)
    if not cells:
        return None
    objects, styles = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    return Heat(title, objects, styles, [[_state(cells.get((o, s), [])) for s in styles] for o in objects])


def _state(images: Sequence[tuple[bool, bool]]) -> str:
    """The state of one cell, from whether object and style of each of its images are right."""
    if not images:
        return "none"
    o, s = (2 * sum(image[i] for image in images) > len(images) for i in (0, 1))
    return "both" if o and s else "object" if o else "style" if s else "neither"
