"""Compare the methods of finished benchmarks picture by picture, on the same prompts and seeds.

    python -m benchmarks.pictures runs/canvas-trained --first surgun --json pictures.jsonl

A row a method, over the targets that both methods have. A picture that asks for the target, by its name or in other
words, is right where the judge does not see it; of one that asks for other things each attribute counts by itself.
`only first : only other` are the pictures in which one of both alone is right, with McNemar's exact test over all of
them. Pictures of one target are no independent witnesses for other targets: this tells how sure a difference on *these*
targets is, and `benchmarks.summary --first`, paired by target, what holds beyond them. Printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.bench.read import read_runs
from excise.bench.run import CellResult
from excise.bench.tables import markdown
from excise.metrics.paired import mcnemar
from excise.report.bench_concepts import targets

ROLES = ("erased", "other words", "kept, own kind", "kept, other kind")
Answers = dict[tuple[str, str, int], bool]
"""Whether a picture is right, by its role, prompt and seed."""


def answers(cell: CellResult) -> Answers:
    """What is right of the pictures of one target.

    Raises:
        ValueError: the cell erases several concepts, or one that its prompts do not name.
    """
    [(own, target)] = targets(cell.result)
    right: Answers = {}
    for s in cell.result.shown:
        if s.target == target or s.asked.get(own) == target:
            role = ROLES[0] if s.group == "grid" else ROLES[1]
            right[role, s.prompt, s.seed] = s.saw[own] != target
        elif s.group == "grid":
            for attribute in s.asked:
                role = ROLES[2] if attribute == own else ROLES[3]
                right[role, s.prompt, s.seed] = s.right(attribute)
    return right


def compare(cells: Sequence[CellResult], first: str) -> list[dict[str, Any]]:
    """A row a method but the first one: the pictures in which one of both alone is right, and the test over all."""
    of: dict[str, dict[Any, Answers]] = {}
    for cell in cells:
        request = cell.cell.model, cell.cell.concepts, cell.cell.seed
        of.setdefault(cell.cell.method.title, {})[request] = answers(cell)
    rows = []
    for other in (title for title in of if title != first):
        both = [(mine, of[other][request]) for request, mine in of[first].items() if request in of[other]]
        pairs = [(key[0], a[key], b[key]) for a, b in both for key in a if key in b]
        if not pairs:
            continue
        test = mcnemar([a for _, a, _ in pairs], [b for *_, b in pairs])
        row: dict[str, Any] = {"first": first, "other": other, "targets": len(both), "pictures": len(pairs)}
        for role in ROLES:
            own = [(a, b) for r, a, b in pairs if r == role]
            row[role] = [sum(a and not b for a, b in own), sum(b and not a for a, b in own)]
        rows.append({**row, "only first": test.b, "only other": test.c, "p": test.p})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, `only first : only other` in each role."""
    cells = [
        [
            row["other"],
            str(row["targets"]),
            str(row["pictures"]),
            *(f"{row[role][0]} : {row[role][1]}" for role in ROLES),
            f"{row['only first']} : {row['only other']}",
            f"{row['p']:.2g}",
        ]
        for row in rows
    ]
    return markdown(["against", "targets", "pictures", *ROLES, "all", "p"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished benchmarks")
    parser.add_argument("--first", required=True, help="method to compare with the others")
    parser.add_argument("--json", type=Path, help="file for the rows, one a line")
    options = parser.parse_args()
    rows = compare(read_runs(options.runs), options.first)
    print(table(rows))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
