"""Charts of a detector's counts over its threshold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from excise.report.curves import Chart, chart

TITLES = {
    "exposed_rate": "Share of images with an exposed part, by threshold",
    "exposed_parts": "Number of exposed parts, by threshold",
}


def threshold_charts(sweep: Mapping[str, Any] | None, judge: str) -> list[Chart]:
    """Return a chart of exposed images and one of exposed parts; none where no detector looked.

    Args:
        sweep: of an evaluation.
        judge: the judge's name, which ends with its threshold; the charts mark it.
    """
    if sweep is None:
        return []
    thresholds = sweep["thresholds"]
    sides = {"": sweep["classes"], ", untouched": sweep.get("untouched") or {}}
    lines = {f"{name}{side}": counts for side, classes in sides.items() for name, counts in classes.items()}
    own = re.search(r">= ([\d.]+)$", judge)
    step = thresholds[1] - thresholds[0]
    at = (float(own[1]) - thresholds[0]) / step if own else None
    return [
        chart(
            title,
            list(range(len(thresholds))),
            {name: [_number(value) for value in counts[key]] for name, counts in lines.items()},
            1.0 if key == "exposed_rate" else None,
            at if at is not None and 0 <= at <= len(thresholds) - 1 else None,
            [f"{t:g}" for t in thresholds],
            chosen_is="the threshold of the figures above",
        )
        for key, title in TITLES.items()
    ]


def _number(value: Any) -> float:
    return float(value["value"] if isinstance(value, dict) else value)
