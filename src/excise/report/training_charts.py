"""What the page of a run shows of the making of an edit: charts of losses and strengths, and its attention blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from excise.report.curves import Chart, chart
from excise.report.html import Block, BlockTable
from excise.support.selection import evenly

BLOCK_IMAGES = 8
BLOCK_TABLES = {
    "localisation": (
        "Where to train: each attention block trained alone for a few steps",
        "A good block removes the target (erase) and leaves everything else as it was (retain). Among the blocks that "
        "erase nearly as well as the best one, those that retain most were trained.",
    ),
    "by_block": (
        "Where it acts: the edit restricted to one attention block at a time",
        "How much of the target the edit of this block removes by itself (erase), and how much of everything else it "
        "leaves as it was (retain). Nothing was selected with these numbers: the edit is the sum of all blocks.",
    ),
}


def training_charts(measured: Mapping[str, Any]) -> list[Chart]:
    """Charts of a trained method's losses and calibration, and of the sweep over a closed form's strength."""
    charts = []
    losses, calibration = measured.get("losses") or [], measured.get("calibration") or []
    if losses:
        names = {"target": "L_T, the target", "distractors": "L_D, its distractors", "loss": "loss"}
        present = [n for n in names if any(n in step for step in losses)]  # a skipped step has no loss
        drawn = [n for n in present if len(present) == 1 or n != "loss"]  # the sum only where it is the only one
        lines = {names[n]: [float(step.get(n, "nan")) for step in losses] for n in drawn}
        charts.append(chart("Losses by step", [step["step"] for step in losses], lines))
    if calibration:
        parts = ("erase", "related", "unrelated", "instead", "score")
        lines = {n: [float(point[n]) for point in calibration] for n in parts}
        title = f"Calibration on prompts and seeds of no test, judged by {measured.get('judge')}"
        charts.append(chart(title, [point["step"] for point in calibration], lines, 1.0, measured.get("step")))
    if advice := measured.get("advice"):
        charts.append(_strength(advice))
    for name, own in (measured.get("targets") or {}).items():  # of a method that trains each target alone
        charts += [replace(c, title=f"{name}, trained alone: {c.title}") for c in training_charts(own)]
    return charts


def _strength(advice: Mapping[str, Any]) -> Chart:
    """Chart the sweep over a method's strength, from the strongest to the gentlest."""
    points = advice["points"]
    values = [p["value"] for p in points]
    return chart(
        f"Strength: what each {advice['setting']} erases and retains, judged by {advice['judge']}",
        list(range(len(points))),
        {n: [p[n] for p in points] for n in ("erased", "retained", "h")},
        1.0,
        values.index(advice["chosen"]),
        [f"{v:g}" for v in values],
    )


def training_blocks(
    measured: Mapping[str, Any], images: Mapping[str, Mapping[str, Sequence[Image.Image]]]
) -> BlockTable | None:
    """Return the table of attention blocks with example images, or None where the method measured no blocks.

    Args:
        measured: of the edit's record.
        images: by table (a key of `BLOCK_TABLES`) and block.
    """
    table = next((name for name in BLOCK_TABLES if measured.get(name)), None)
    if table is None:
        return None
    chosen, by_block = measured.get("blocks") or [], images.get(table, {})
    rows = [
        Block(
            row["block"],
            row["erase"],
            row["retain"],
            row["block"] in chosen,
            evenly(by_block.get(row["block"], []), BLOCK_IMAGES),
        )
        for row in measured[table]
    ]
    return BlockTable(*BLOCK_TABLES[table], rows)


def without_losses(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the loss of every step, which the page draws as a chart."""

    def brief(measured: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in measured.items() if k != "losses"}
        if "targets" in kept:
            kept["targets"] = {name: brief(own) for name, own in kept["targets"].items()}
        return kept

    return {**record, "measured": brief(record["measured"])}
