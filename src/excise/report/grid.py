"""The object x style map of a protocol's images, for both kinds of page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from excise.report.html import Heat

if TYPE_CHECKING:
    from excise.evaluation.scoring import Shown


def heat(shown: Sequence[Shown], title: str) -> Heat | None:
    """Which cells of the object x style grid come out right, by majority of their images."""
    cells: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for s in shown:
        if s.group == "grid":
            right = (s.right("object"), s.right("style"))
            cells.setdefault((s.asked["object"], s.asked["style"]), []).append(right)
    if not cells:
        return None
    objects, styles = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    return Heat(title, objects, styles, [[_state(cells.get((o, s), [])) for s in styles] for o in objects])


def _state(found: Sequence[tuple[bool, bool]]) -> str:
    if not found:
        return "none"
    o, s = (2 * sum(f[i] for f in found) > len(found) for i in (0, 1))
    return "both" if o and s else "object" if o else "style" if s else "neither"
