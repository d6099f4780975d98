"""Summarise the result lines of a benchmark: means by kind of target, and paired tests between methods.

    python -m benchmarks.summary benchmarks/results/canvas-surgun.jsonl --first surgun

    python -m benchmarks.summary benchmarks/results/canvas-trained.jsonl --costs --concept dog

    python -m benchmarks.summary benchmarks/results/canvas-trained.jsonl --complete --concept dog --concept car

    python -m benchmarks.summary benchmarks/results/canvas-names.jsonl --draw docs/images/names.png

Printed as Markdown, rates in per cent. `rel.` is a rate divided by that of the untouched model on the same prompts,
averaged over targets. `near` is the accuracy on the nearest other names (first bin by distance in text space), relative
to the untouched model. Differences are paired by target: mean, 95 % bootstrap interval, Wilcoxon's signed-rank test.
For many names erased at once there is a row for each method and number of names, with `acc_r rel.` relative to the
untouched model; `--draw` plots H_o over the number of names (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from excise.bench.tables import markdown
from excise.canvas import world
from excise.metrics.rates import bootstrap

Line = dict[str, Any]
KINDS: dict[str, Callable[[str], bool]] = {
    "objects": lambda name: name in world.OBJECTS,
    "styles": lambda name: name in world.STYLES,
    "pairs": lambda name: world.pair(name) is not None,
}
ADVISED = ", advised"  # suffix of the label of a row whose strength a sweep chose
NAMES = ("acc_e", "acc_r", "h_o")
RATES = ("ua", "ira", "cra", "h", "sc", "oc", "up", "alias_rate", "synonym_rate", "spanish_rate", "paraphrase_rate")
TESTED = ("h", "ua", "ira", "cra", "alias_rate", "synonym_rate", "spanish_rate", "paraphrase_rate", "drift")


def read(paths: Sequence[Path]) -> list[Line]:
    """Return the lines of finished benchmarks."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def complete(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of methods that have one of every target of their model."""
    targets = {(line["model"], tuple(line["concepts"])) for line in lines}
    have = {(line["method"], line["model"], tuple(line["concepts"])) for line in lines}
    return [x for x in lines if all((x["method"], *t) in have for t in targets if t[0] == x["model"])]


def value(line: Line, name: str) -> float:
    """Return a metric of a line; nan if the line lacks it."""
    if name == "near":
        return _near(line)
    if name.endswith(" rel."):
        before = (line.get("untouched") or {}).get(name.removesuffix(" rel."), {}).get("value")
        return value(line, name.removesuffix(" rel.")) / before if before else float("nan")
    return float(line["metrics"].get(name, {}).get("value", float("nan")))


def _near(line: Line) -> float:
    """Return the accuracy on the nearest names after the edit, relative to before."""
    bins = [rows[0] for rows in line["neighbours"].values() if rows]
    before, after = (sum(b[side]["value"] for b in bins) for side in ("before", "after"))
    return after / before if before else float("nan")


def table(lines: Sequence[Line], costs: bool = False) -> str:
    """Return a table with a row a method: means over its targets.

    Args:
        costs: also the minutes that making the edit took, and the size of its file in megabytes.
    """
    columns = [n for n in RATES if any(n in line["metrics"] for line in lines)]
    columns += [f"{n} rel." for n in ("ira", "cra") if n in columns]
    columns += ["near"] if any(line["neighbours"] for line in lines) else []
    plain = [n for n in ("kid", "drift") if any(n in line["metrics"] for line in lines)]
    rows = []
    for method in dict.fromkeys(line["method"] for line in lines):
        own = [line for line in lines if line["method"] == method]
        cells = [f"{100 * _mean(own, c):.1f}" for c in columns] + [f"{_mean(own, c):.4f}" for c in plain]
        if costs:
            cells += [f"{np.mean([_spent(line) for line in own]) / 60:.1f}"]
            cells += [f"{np.mean([line['edit_bytes'] for line in own]) / 1e6:.2f}"]
        rows.append([method, str(len(own)), *(c if c != "nan" else "–" for c in cells)])
    return markdown(["method", "targets", *columns, *plain, *(["minutes", "MB"] if costs else [])], rows)


def _spent(line: Line) -> float:
    """Seconds that making the edit took."""
    return float(sum(v for k, v in line["seconds"].items() if k in ("erase", "encode", "solve", "train")))


def _mean(lines: Sequence[Line], name: str) -> float:
    values = [v for line in lines if (v := value(line, name)) == v]
    return float(np.mean(values)) if values else float("nan")


def tests(lines: Sequence[Line], first: str, against: Sequence[str]) -> str:
    """Return a table with a row a metric and method: the first method's value minus the other's, paired by target."""
    rows = []
    of = {(line["method"], tuple(line["concepts"])): line for line in lines}
    for metric in TESTED:
        for other in against:
            pairs = [(of[first, c], of[other, c]) for m, c in of if m == first and (other, c) in of]
            differences = np.array([value(a, metric) - value(b, metric) for a, b in pairs])
            differences = differences[~np.isnan(differences)]
            if len(differences) < 2:
                continue
            e = bootstrap(list(differences[:, None]), lambda pooled: float(pooled.mean()))
            p = float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
            scale, form = (1, "+.4f") if metric == "drift" else (100, "+.2f")
            interval = f"{scale * e.low:{form}} to {scale * e.high:{form}}"
            rows.append([metric, other, str(len(differences)), f"{scale * e.value:{form}}", interval, f"{p:.2g}"])
    return markdown(["metric", "against", "targets", "difference", "95 %", "p"], rows)


def by_target(lines: Sequence[Line], methods: Sequence[str]) -> str:
    """Return a table of targets by methods: UA / IRA / CRA and the alias rate."""
    of = {(", ".join(line["concepts"]), line["method"]): _rates(line) for line in lines}
    return grid(of, {"target": list(dict.fromkeys(target for target, _ in of)), "method": methods})


def grid(cells: Mapping[tuple[str, str], str], sides: Mapping[str, Sequence[str]]) -> str:
    """Return a table of two sides, with a row for each of the more.

    Args:
        cells: by what they are of, on the first side and on the second. sides: these, by what they are called.
    """
    (down, rows), (across, columns) = sides.items()
    if len(columns) > len(rows):
        return grid({(b, a): cell for (a, b), cell in cells.items()}, {across: columns, down: rows})
    return markdown([down, *columns], [[a, *(cells.get((a, b), "") for b in columns)] for a in rows])


def _rates(line: Line) -> str:
    rates = " / ".join(f"{100 * value(line, n):.1f}" for n in ("ua", "ira", "cra"))
    alias = value(line, "alias_rate")
    return rates + (f" ({100 * alias:.0f})" if alias == alias else "")


def names_table(lines: Sequence[Line]) -> str:
    """Return a table with a row a method and number of names, with 95 % intervals, fewest names first."""
    rows = []
    for line in sorted(lines, key=lambda line: len(line["concepts"])):
        cells = [_with_interval(line["metrics"][n]) if n in line["metrics"] else "–" for n in NAMES]
        rel, kid = value(line, "acc_r rel."), value(line, "kid")
        spent = f"{_spent(line):.1f}"
        row = [str(len(line["concepts"])), line["method"], *cells, f"{100 * rel:.1f}", f"{kid:.4f}", spent]
        rows.append(row)
    return markdown(["names", "method", "Acc_e", "Acc_r", "H_o", "Acc_r rel.", "KID", "seconds"], rows)


def by_number(lines: Sequence[Line]) -> str:
    """Return a table of H_o by method and number of names, the best at the largest number first.

    The last column is the first measured number of names at which H_o is below 80.
    """
    numbers = sorted({len(line["concepts"]) for line in lines})
    of = {(line["method"], len(line["concepts"])): line["metrics"]["h_o"] for line in lines}
    methods = dict.fromkeys(line["method"] for line in lines)
    rows = []
    for method in sorted(methods, key=lambda m: -of[m, numbers[-1]]["value"] if (m, numbers[-1]) in of else 1):
        measured = {n: of[method, n] for n in numbers if (method, n) in of}
        cells = [f"{100 * measured[n]['value']:.1f}" if n in measured else "–" for n in numbers]
        below = next((str(n) for n, e in measured.items() if e["value"] < 0.8), "–")
        rows.append([method, *cells, below])
    return markdown(["method", *map(str, numbers), "H_o first below 80 at"], rows)


def _with_interval(e: dict[str, float]) -> str:
    return f"{100 * e['value']:.1f} ({100 * e['low']:.1f} to {100 * e['high']:.1f})"


def draw_names(lines: Sequence[Line], path: Path) -> None:
    """Plot H_o with intervals over the number of names, a line a method; dashed for a strength advised by a sweep."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    colours = plt.get_cmap("tab10").colors
    methods = list(dict.fromkeys(line["method"].removesuffix(ADVISED) for line in lines))
    for name in dict.fromkeys(line["method"] for line in lines):
        own = sorted((x for x in lines if x["method"] == name), key=lambda line: len(line["concepts"]))
        figures = [x["metrics"]["h_o"] for x in own]
        values = [100 * e["value"] for e in figures]
        bars = [[100 * (e["value"] - e["low"]) for e in figures], [100 * (e["high"] - e["value"]) for e in figures]]
        counts = [len(x["concepts"]) for x in own]
        which = methods.index(name.removesuffix(ADVISED))
        style = {"ls": "--" if name.endswith(ADVISED) else "-", "marker": "o" if which < len(colours) else "s"}
        axis.errorbar(counts, values, bars, color=colours[which % len(colours)], label=name, ms=4, lw=1.2, **style)
    axis.set(xscale="log", xlabel="names erased at once", ylabel="H_o, per cent", ylim=(0, 100))
    numbers = sorted({len(line["concepts"]) for line in lines})
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.minorticks_off()
    axis.legend(fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="results.jsonl of finished benchmarks")
    parser.add_argument("--first", help="method to test against the others")
    parser.add_argument("--by-target", action="store_true", help="print a row for each target as well")
    parser.add_argument("--concept", action="append", help="leave out the lines of other targets; repeatable")
    parser.add_argument("--complete", action="store_true", help="leave out methods that lack one of the targets")
    parser.add_argument("--costs", action="store_true", help="also minutes and megabytes of an edit")
    parser.add_argument("--draw", type=Path, help="file for the plot of H_o over the number of names")
    options = parser.parse_args()
    lines = [x for x in read(options.results) if not options.concept or x["concepts"] in [[c] for c in options.concept]]
    lines = complete(lines) if options.complete else lines
    of_names = [line for line in lines if "acc_e" in line["metrics"]]
    if of_names:
        print(by_number(of_names), names_table(of_names), sep="\n\n")
        if options.draw:
            draw_names(of_names, options.draw)
        return
    for model in dict.fromkeys(line["model"] for line in lines):
        mine = [line for line in lines if line["model"] == model]
        print(f"\n## {model}")
        for kind, holds in KINDS.items():
            own = [line for line in mine if all(map(holds, line["concepts"]))]
            if own:
                print(f"\n### {kind}\n\n{table(own, options.costs)}")
        methods = list(dict.fromkeys(line["method"] for line in mine))
        if options.first:
            others = [m for m in methods if m not in (options.first, "identity", "noise")]
            print(f"\n### {options.first} less the others\n\n{tests(mine, options.first, others)}")
        if options.by_target and any("ua" in line["metrics"] for line in mine):
            print(f"\n### UA / IRA / CRA (alias rate)\n\n{by_target(mine, [m for m in methods if m != 'noise'])}")


if __name__ == "__main__":
    main()
