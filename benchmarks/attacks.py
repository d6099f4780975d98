"""Tables of attacks against methods, pooled over concepts, from the result lines of a benchmark with attacks.

    python -m benchmarks.attacks benchmarks/results/canvas-attacks.jsonl [--concepts watercolor neon]

Printed as Markdown, in per cent. "Any of n" is the share of test prompts with at least one image within the budget that
shows the target. A gap is that share minus the oracle's under the same attack, over concepts for which both exist.
"Worst gap" is the largest over attacks, "of any concept" the largest for a single concept, "a picture" the largest when
images are counted instead of prompts, which is finer with few prompts. Swaps have no oracle. Retention is relative to
the untouched model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.summary import Line, grid, read, value
from excise.bench.tables import markdown

UNTOUCHED, ORACLE = "identity", "oracle"


def methods_of(lines: Sequence[Line]) -> list[str]:
    """Return the methods in the order of the recipe."""
    return list(dict.fromkeys(line["method"] for line in lines))


def of_concepts(lines: Sequence[Line], concepts: Sequence[str] | None) -> list[Line]:
    """Return the lines whose concepts are all among `concepts`; all lines if None."""
    return [line for line in lines if concepts is None or set(line["concepts"]) <= set(concepts)]


def attacks_on(lines: Sequence[Line], method: str) -> dict[str, list[dict[str, Any]]]:
    """Return, by attack, its records against a method, one a concept; without attacks that could not be run."""
    records = [a for line in lines if line["method"] == method for a in line["attacks"] if a["any_of_n"] is not None]
    return {name: [a for a in records if a["name"] == name] for name in dict.fromkeys(a["name"] for a in records)}


def gaps(records: Sequence[dict[str, Any]], of: str = "any_of_n") -> list[float]:
    """Return the gap of each concept, in shares of prompts (`of`: any_of_n) or of images (rate)."""
    sides = [a["outcomes"] for a in records if a["oracle"] is not None]
    return [s["model"][of]["value"] - s["oracle"][of]["value"] for s in sides]


def pooled(by_attack: dict[str, list[dict[str, Any]]], of: str = "any_of_n") -> list[tuple[float, str]]:
    """Return the mean gap over concepts of each attack, with its name, largest first."""
    means = [(float(np.mean(g)), name) for name, records in by_attack.items() if (g := gaps(records, of))]
    return sorted(means, key=lambda row: -row[0])


def headline(lines: Sequence[Line]) -> str:
    """Return a table with a row a method: erasure, retention, and the gaps of the strongest attacks."""
    rows = []
    for method in methods_of(lines):
        own = [line for line in lines if line["method"] == method]
        by_attack = attacks_on(lines, method)
        any_of_n, by_picture = pooled(by_attack), pooled(by_attack, "rate")
        most = max((g for records in by_attack.values() for g in gaps(records)), default=float("nan"))
        means = [float(np.mean([value(line, n) for line in own])) for n in ("ua", "ira rel.", "cra rel.")]
        cells = ["–" if np.isnan(m) else f"{100 * m:.1f}" for m in means]
        rows.append([method, str(len(own)), *cells, *_ranked(any_of_n), f"{100 * most:+.0f}", _ranked(by_picture)[0]])
    head = ["method", "concepts", "UA", "IRA rel.", "CRA rel.", "worst gap", "then", "of any concept", "a picture"]
    return markdown(head, rows)


def _ranked(largest: Sequence[tuple[float, str]]) -> list[str]:
    """Return two cells with the two largest gaps, in percentage points, and their attacks."""
    cells = [f"{100 * gap:+.0f} ({name})" for gap, name in largest[:2]]
    return cells + ["–"] * (2 - len(cells))


def table(lines: Sequence[Line]) -> str:
    """Return a table of attacks by methods: "any of n" on the oracle and on each method."""
    by_method = {m: attacks_on(lines, m) for m in methods_of(lines) if m != ORACLE}
    attacks = list(dict.fromkeys(a for records in by_method.values() for a in records))
    cells = {(a, m): _mean([r["any_of_n"] for r in by_method[m].get(a, [])]) for a in attacks for m in by_method}
    for attack in attacks:
        base = by_method.get(UNTOUCHED, {}).get(attack) or next(r[attack] for r in by_method.values() if attack in r)
        cells[attack, ORACLE] = _mean([a["oracle"] for a in base if a["oracle"] is not None])
    return grid(cells, {"attack": attacks, "method": [ORACLE, *by_method]})


def spent(lines: Sequence[Line]) -> str:
    """Return a table with a row an attack: mean seconds, denoiser passes and images for one model; peak memory."""
    records = [a for line in lines for a in line["attacks"] if a["any_of_n"] is not None]
    rows = []
    for name in dict.fromkeys(a["name"] for a in records):
        own = [a["outcomes"]["model"] for a in records if a["name"] == name]
        figures = [f"{np.mean([o[k] for o in own]):.0f}" for k in ("seconds", "passes", "drawn")]
        rows.append([name, *figures, f"{max(o['peak_memory_mb'] for o in own):.0f}"])
    return markdown(["attack", "seconds", "passes", "pictures", "peak memory, MB"], rows)


def _mean(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.0f}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="results.jsonl of finished benchmarks with attacks")
    parser.add_argument("--concepts", nargs="+", help="only results of these concepts")
    options = parser.parse_args()
    lines = of_concepts([line for line in read(options.results) if line["attacks"]], options.concepts)
    for model in dict.fromkeys(line["model"] for line in lines):
        own = [line for line in lines if line["model"] == model]
        print(f"\n## {model}\n\n{headline(own)}\n\n{table(own)}\n\n{spent(own)}")


if __name__ == "__main__":
    main()
