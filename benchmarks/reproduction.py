"""Published figures beside ours: what needs no weights is recomputed; for the rest, ranges and a check of result lines.

    python -m benchmarks.reproduction                                          # the tables of docs/reproduction.md

    python -m benchmarks.reproduction runs/paper-celebrities/results.jsonl     # a run's lines beside what was published

A rate's range holds every rate that chance alone may bring: those for which Newcombe's 95 % interval of the difference
from the published rate, at both numbers of pictures, has zero in it. That of H_o is from the ends of its two parts. A
count's has the counts within 1.96 standard deviations of the difference of two Poisson counts. A mean over the models
of UnlearnCanvas has no such interval; its range is as wide as a rerun of one method by others fell from its paper.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published import FIGURES, RERUN, SCAPRE, SPEED, Figure
from excise.bench.tables import markdown
from excise.metrics.rates import Z95, harmonic_mean, wilson
from excise.metrics.uq import uq

Range = tuple[float, float]
Line = dict[str, Any]
COUNTS = ("exposed_parts",)


def uq_rows() -> list[list[str]]:
    """Return the rows of ScaPre's Table 5: mean as printed and recomputed, UQ as printed and recomputed."""
    columns = list(SCAPRE.values())
    ours = uq([mean for _, mean, _, _ in columns], [clip for _, _, clip, _ in columns])
    return [
        [name, f"{mean}", f"{np.mean(classes):.2f}", "–" if printed is None else f"{printed:.2f}", f"{value:.2f}"]
        for (name, (classes, mean, _, printed)), value in zip(SCAPRE.items(), ours, strict=True)
    ]


def h_rows() -> list[list[str]]:
    """Return the rows of SPEED's table of celebrities: H_o as printed, and of the two printed accuracies."""
    return [
        [method, f"{count}", f"{erased:.2f}", f"{retained:.2f}", f"{printed:.2f}", f"{h_o(erased, retained):.2f}"]
        for (method, count), (erased, retained, printed) in SPEED.items()
    ]


def h_o(erased: float, retained: float) -> float:
    """Return the harmonic mean, in per cent, of 100 less the accuracy on the erased and of that on the kept."""
    return 100 * harmonic_mean([1 - erased / 100, retained / 100])


def rate_range(percent: float, n: int, ours: int) -> Range:
    """Return the lowest and the highest rate, in per cent, of `ours` pictures that chance tells from nothing."""
    p = percent / 100
    low, high = wilson(p, n)
    inside = []
    for k in range(ours + 1):
        q = k / ours
        below, above = wilson(q, ours)
        if -math.hypot(q - below, high - p) <= p - q <= math.hypot(above - q, p - low):
            inside.append(100 * q)
    return inside[0], inside[-1]


def count_range(count: float) -> Range:
    """Return the lowest and the highest count that a second run may bring by chance, if counts are Poisson's."""
    half = Z95 * math.sqrt(2 * count)
    return math.ceil(count - half), math.floor(count + half)


def rerun_width() -> float:
    """Return how far, at most, a second group's figures of one method fell from its paper's, in points."""
    return max(abs(a - b) for paper, rerun in RERUN for a, b in zip(paper, rerun, strict=True))


def expected(figure: Figure) -> Range:
    """Return the range in which a run of the figure's recipe is expected."""
    if figure.metric in COUNTS:
        return count_range(figure.value)
    if figure.n is None or figure.ours is None:
        width = rerun_width()
        return max(0.0, figure.value - width), min(100.0, figure.value + width)
    if figure.metric == "h_o":
        erased, retained = (expected(_sibling(figure, metric)) for metric in ("acc_e", "acc_r"))
        return h_o(erased[1], retained[0]), h_o(erased[0], retained[1])
    return rate_range(figure.value, figure.n, figure.ours)


def _sibling(figure: Figure, metric: str) -> Figure:
    return next(f for f in FIGURES if (f.recipe, f.method, f.metric) == (figure.recipe, figure.method, metric))


def expected_rows(recipe: str) -> list[list[str]]:
    """Return the rows of the table of what a recipe is expected to give."""
    return [[f.method, f.metric, _number(f, f.value), _span(f)] for f in FIGURES if f.recipe == recipe]


def tables() -> dict[str, str]:
    """Return every table of docs/reproduction.md as Markdown: UQ, H_o, and one for each recipe by its name."""
    recipes = dict.fromkeys(f.recipe for f in FIGURES)
    return {
        "uq": markdown(UQ_HEAD, uq_rows()),
        "h_o": markdown(H_HEAD, h_rows()),
        **{recipe: markdown(EXPECTED_HEAD, expected_rows(recipe)) for recipe in recipes},
    }


def checked_rows(lines: Sequence[Line]) -> list[list[str]]:
    """Return a row for each published figure that the result lines of a recipe measure; means over its concepts."""
    rows = []
    for figure in FIGURES:
        own = [line for line in lines if line["method"] == figure.method and line["protocol"] == _protocol(figure)]
        values = [line["metrics"][figure.metric]["value"] for line in own if figure.metric in line["metrics"]]
        concepts = {concept for line in own for concept in line["concepts"]}
        if not values or not _asks_what_is_published(figure, concepts):
            continue
        mean = float(np.mean(values)) * (1 if figure.metric in COUNTS else 100)
        low, high = expected(figure)
        measured = [_number(figure, mean), "yes" if low <= mean <= high else "no"]
        rows.append([figure.method, figure.metric, _number(figure, figure.value), _span(figure), *measured])
    return rows


def _protocol(figure: Figure) -> str:
    """The protocol of a figure's recipe."""
    names = {"paper-celebrities": "celebrity", "paper-imagenette": "imagenette", "paper-i2p": "i2p"}
    return names.get(figure.recipe, "unlearncanvas")


def _asks_what_is_published(figure: Figure, concepts: set[str]) -> bool:
    """Whether the concepts of result lines are of the figure's kind: of UnlearnCanvas styles or objects."""
    from excise.protocols.unlearncanvas import OBJECTS, STYLES

    if figure.recipe == "paper-unlearncanvas-objects":
        return concepts <= set(OBJECTS)
    return _protocol(figure) != "unlearncanvas" or concepts <= set(STYLES)


def _number(figure: Figure, value: float) -> str:
    return f"{value:,.0f}" if figure.metric in COUNTS else f"{value:.2f}"


def _span(figure: Figure) -> str:
    low, high = expected(figure)
    return f"{low:,.0f} to {high:,.0f}" if figure.metric in COUNTS else f"{low:.1f} to {high:.1f}"


UQ_HEAD = ("column", "mean, printed", "mean, ours", "UQ, printed", "UQ, ours")
H_HEAD = ("method", "celebrities", "Acc_e, printed", "Acc_r, printed", "H_o, printed", "H_o, ours")
EXPECTED_HEAD = ("row", "metric", "published", "expected")
CHECKED_HEAD = ("row", "metric", "published", "expected", "measured", "inside")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="*", help="results.jsonl of runs of recipes/paper-*.yaml")
    options = parser.parse_args(arguments)
    if not options.results:
        for name, table in tables().items():
            print(f"{name}\n\n{table}\n")
        return
    try:
        lines = [json.loads(line) for path in options.results for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        parser.error(f"cannot read result lines: {error}; expected the results.jsonl of a finished benchmark")
    rows = checked_rows(lines)
    print(markdown(CHECKED_HEAD, rows) if rows else "None of these lines measures a figure that is published.")


if __name__ == "__main__":
    main()
