"""Exact paired tests on a bench page: each method against the first one, on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from excise.bench.tables import Row
from excise.metrics.paired import mcnemar
from excise.report.bench_concepts import is_retained, is_right, targets
from excise.report.bench_html import TableCell

if TYPE_CHECKING:
    from excise.bench.run import CellResult

Right = dict[tuple[str, int], bool]
"""By prompt and seed of each retained image, whether it is right."""


class PairedTests:
    """Exact McNemar tests on the images of retained prompts, against the first method of each model.

    Attributes:
        label: the first method; of several models, the first methods separated by slashes.
        count: how many tests were made so far.
    """

    def __init__(self, results: Sequence[CellResult]) -> None:
        self.right = {d.cell.key: _retained(d) for d in results}
        self.results = results
        self.first: dict[str, str] = {}
        for d in [*(d for d in results if not d.cell.method.control), *results]:
            self.first.setdefault(d.cell.model, d.cell.method.title)
        self.label = " / ".join(dict.fromkeys(self.first.values()))
        self.count = 0

    def of_cell(self, d: CellResult) -> TableCell:
        """The test of one cell."""
        return self._cell([d], d.cell.method.title == self.first[d.cell.model])

    def of_mean(self, row: Row) -> TableCell:
        """The test over all cells of a mean."""
        members = [d for d in self.results if (d.cell.model, d.cell.method.title) == (row.model, row.method)]
        return self._cell(members, row.method == self.first[row.model])

    def _cell(self, members: Sequence[CellResult], is_first: bool) -> TableCell:
        if is_first:
            return TableCell("–", ["the reference"])
        pairs = [pair for d in members for pair in self._pairs(d)]
        if not pairs:
            return TableCell("–")
        self.count += 1
        test = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
        text = f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001"
        return TableCell(text, [f"{test.b} : {test.c}", f"n {len(pairs):,}"], f"{test.p:.6g}")

    def _pairs(self, d: CellResult) -> list[tuple[bool, bool]]:
        """Whether each retained image is right, here and with the first method on the same concepts and seed."""
        first = self.first[d.cell.model]
        reference = next((o for o in self.results if o.cell.method.title == first and _request(o) == _request(d)), None)
        if reference is None:
            return []
        a, b = self.right[d.cell.key], self.right[reference.cell.key]
        return [(a[key], b[key]) for key in a if key in b]


def _request(d: CellResult) -> tuple[Any, ...]:
    return d.cell.model, d.cell.concepts, d.cell.seed


def _retained(d: CellResult) -> Right:
    wanted, score = targets(d.result), d.result.protocol_summary["score"]
    return {(s.prompt, s.seed): is_right(s, score) for s in d.result.shown if is_retained(s, wanted)}
