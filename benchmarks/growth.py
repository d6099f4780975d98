"""Measure how the closed forms' time grows with concepts, width and rows, and compare it with multiplication counts.

    python -m benchmarks.growth --out benchmarks/results/closed-form-growth.jsonl
    python -m benchmarks.growth --draw benchmarks/results/closed-form-growth.jsonl docs/images/closed-form-growth.png

One number grows, the others stay at 100 concepts, width 768 and 8 layers of 640 rows in keys and in values. Solving and
computing the new weights are timed, as in `benchmarks.closed_form`. Drawing needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.closed_form import BENCHES, TOKENS, problem_of, solve_and_apply

LAYERS, CONCEPTS, WIDTH, ROWS = 8, 100, 768, 640
RANGES = {
    "concepts": (10, 30, 100, 300, 1000),
    "width": (256, 512, 768, 1024, 2048),
    "rows": (160, 320, 640, 1280, 2560),
}

# Dominant terms of the multiplications with T target tokens, K concepts, width d, n rows in total, L matrices.
COUNTS: dict[str, Callable[[int, int, int, int, int], float]] = {
    "uce": lambda T, K, d, n, L: d**3 / 3 + 2 * min(T, d) * d**2 + n * d * min(T, d),
    "mace": lambda T, K, d, n, L: 2 * d**3 + 0.6 * T * d**2 + n * d * min(T, d),
    "rece": lambda T, K, d, n, L: 20 * d**3 + 0.6 * T * d**2 + n * d**2 + n * d * min(T, d),
    "cure": lambda T, K, d, n, L: 4 * min(T, d) ** 2 * d + n * d * min(T, d),
    "speed": lambda T, K, d, n, L: L * (10 * d**3 + 2 * T * d**2) + n * d**2,
    "scapre": lambda T, K, d, n, L: 10 * d**3 + 0.6 * T * d**2 + 3 * n * d**2 + n * d * (T + 30 * K) + L * 10 * K**3,
}


def time_of(method: str, concepts: int, width: int, rows: int) -> float:
    """Return the seconds of one edit after encoding."""
    b = BENCHES[method]
    problem, weights = problem_of((rows,) * LAYERS, width, concepts, TOKENS[method], b.roles)
    return solve_and_apply(b, [(problem, weights)]).seconds


def lines(method: str) -> list[dict[str, Any]]:
    """Return a line a point: what grows, its value, seconds and count."""
    points = []
    for what, values in RANGES.items():
        for value in values:
            sizes = {"concepts": CONCEPTS, "width": WIDTH, "rows": ROWS, what: value}
            seconds = time_of(method, **sizes)
            matrices = LAYERS * len(BENCHES[method].roles)
            concepts, width = sizes["concepts"], sizes["width"]
            count = COUNTS[method](concepts * TOKENS[method], concepts, width, matrices * sizes["rows"], matrices)
            points.append(
                {"method": method, "grows": what, "value": value, "seconds": round(seconds, 4), "count": count}
            )
            print(f"{method}, {what} {value}: {seconds:.3f} s", flush=True)
    return points


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw three charts with logarithmic axes; dashed lines are the counts, scaled to meet the last point."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, what in zip(axes, RANGES, strict=True):
        for number, method in enumerate(COUNTS):
            mine = [r for r in rows if r["method"] == method and r["grows"] == what]
            values = [r["value"] for r in mine]
            scale = mine[-1]["seconds"] / mine[-1]["count"]
            axis.loglog(values, [r["seconds"] for r in mine], "o-", color=f"C{number}", label=method, markersize=4)
            axis.loglog(values, [scale * r["count"] for r in mine], "--", color=f"C{number}", linewidth=0.8)
        axis.set_xticks(RANGES[what], [f"{value:,}" for value in RANGES[what]])
        axis.minorticks_off()
        axis.set_xlabel(what)
    axes[0].set_ylabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", title="dashed: count")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", action="append", choices=COUNTS)
    parser.add_argument("--out", type=Path, help="file to write the points to")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("POINTS", "PICTURE"), help="draw points of a file")
    options = parser.parse_args(arguments)
    if options.draw:
        points, picture = options.draw
        draw([json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()], picture)
        return
    rows = [row for method in options.method or COUNTS for row in lines(method)]
    if options.out:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
