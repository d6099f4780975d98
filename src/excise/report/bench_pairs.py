"""Exact paired tests of a bench: each method against the first on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from excise.bench.tables import Row
from excise.methods import CONTROLS
from excise.metrics.paired import mcnemar
from excise.report import bench_concepts
from excise.report.bench_html import Figure

if TYPE_CHECKING:
    from excise.bench.run import Done

Right = dict[tuple[Any, ...], bool]


class Paired:
    """Exact McNemar tests on the retained prompts, against the first method of each model."""

    def __init__(self, done: Sequence[Done]) -> None:
        self.right = {d.cell.key: _retained(d) for d in done}
        self.done = done
        self.first: dict[str, str] = {}
        for d in [*(d for d in done if not control(d)), *done]:
            self.first.setdefault(d.cell.model, d.cell.method.title)
        self.label = " / ".join(dict.fromkeys(self.first.values()))
        self.count = 0

    def one(self, d: Done) -> Figure:
        return self._figure([d], d.cell.method.title == self.first[d.cell.model])

    def pooled(self, row: Row) -> Figure:
        mine = [d for d in self.done if (d.cell.model, d.cell.method.title) == (row.model, row.method)]
        return self._figure(mine, row.method == self.first[row.model])

    def _figure(self, mine: Sequence[Done], is_first: bool) -> Figure:
        if is_first:
            return Figure("–", ["the reference"])
        pairs = [pair for d in mine for pair in self._pairs(d)]
        if not pairs:
            return Figure("–")
        self.count += 1
        test = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
        text = f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001"
        return Figure(text, [f"{test.b} : {test.c}", f"n {len(pairs):,}"], f"{test.p:.6g}")

    def _pairs(self, d: Done) -> list[tuple[bool, bool]]:
        def place(other: Done) -> tuple[Any, ...]:
            return other.cell.model, other.cell.concepts, other.cell.seed

        first = self.first[d.cell.model]
        theirs = next((o for o in self.done if place(o) == place(d) and o.cell.method.title == first), None)
        if theirs is None:
            return []
        a, b = self.right[d.cell.key], self.right[theirs.cell.key]
        return [(a[key], b[key]) for key in a if key in b]


def _retained(d: Done) -> Right:
    """By prompt and seed, whether what has nothing to do with the targets came out right."""
    wanted = bench_concepts.targets(d.result)
    kind = d.result.protocol_summary["score"]
    return {
        (s.prompt, s.seed): bench_concepts.kept_right(s, kind)
        for s in d.result.shown
        if bench_concepts.retained(s, wanted)
    }


def control(d: Done) -> str:
    """Which control a cell is of, or nothing."""
    return d.cell.method.name if d.cell.method.name in CONTROLS else ""
