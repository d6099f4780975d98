"""What an evaluation shows of itself in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.evaluation.catalog import METRICS, Metric, Prominence, interval, quantity
from excise.evaluation.scoring import Shown
from excise.protocols.base import Target, asks
from excise.support.display import PICTURES, Card, Picture, seconds_text, some
from excise.support.selection import evenly

Estimates = Mapping[str, Mapping[str, float]]


def evaluation_card(
    protocol: tuple[str, str],
    model: str,
    concepts: Sequence[str],
    metrics: Estimates,
    untouched: Estimates | None,
    seconds: Mapping[str, float],
    verdict: str = "",
) -> Card:
    """Describe an evaluation by its metrics with intervals.

    Args:
        protocol: its name and hash.
        verdict: on the concepts, in a sentence; empty where there is none.
    """
    known = {key: METRICS[key] for key in METRICS if key in metrics}
    main = [m for m in known.values() if m.prominence >= Prominence.MAIN] or list(known.values())[:4]
    head = ("metric", "value", "95 % interval", "n", *(["untouched"] if untouched else []))
    rows = [
        (
            metric.title,
            *_estimate(metrics[key], metric),
            *([_value(untouched.get(key), metric)] if untouched else []),
        )
        for key, metric in known.items()
    ]
    facts = [
        ("verdict", verdict),
        ("measured", ", ".join(f"{m.label} {_value(metrics[m.key], m)}" for m in main)),
        ("at least", _ends(metrics, main)),
        ("protocol", f"{protocol[0]}, hash {protocol[1][:12]}"),
        ("took", seconds_text(seconds)),
    ]
    of = f" without {some(concepts)}" if concepts else ""
    return Card(f"Evaluation: {model or 'a model'}{of}", facts, head, rows)


def picture_rows(
    shown: Sequence[Shown], images: Sequence[Any], targets: Sequence[Target], before: Sequence[Any] | None
) -> list[tuple[str, list[Picture]]]:
    """Return rows of pictures: prompts that ask for a target and others, each before and after where both are drawn."""
    asked = {
        "targets": [i for i, s in enumerate(shown) if asks(s.asked, targets) or s.target is not None],
        "others": [i for i, s in enumerate(shown) if not (asks(s.asked, targets) or s.target is not None)],
    }
    rows = []
    for name, places in asked.items():
        chosen = evenly(places, PICTURES)
        if before is not None:
            rows.append((f"{name}, untouched", [Picture(before[i], shown[i].prompt) for i in chosen]))
        label = f"{name}, edited" if before is not None else name
        rows.append((label, [Picture(images[i], _caption(shown[i])) for i in chosen]))
    return rows


def _caption(shown: Shown) -> str:
    """The prompt of a picture, and what the judge saw in it."""
    seen = ", ".join(shown.saw.values())
    return f"{shown.prompt}: {seen}" if seen else shown.prompt


def _estimate(estimate: Mapping[str, float], metric: Metric) -> tuple[str, str, str]:
    n = f"{estimate['n']:.0f}" if "n" in estimate else ""
    return _value(estimate, metric), interval(estimate, metric.unit), n


def _value(estimate: Mapping[str, float] | None, metric: Metric) -> str:
    return "" if estimate is None else quantity(estimate["value"], metric.unit)


def _ends(metrics: Estimates, shown: Sequence[Metric]) -> str:
    """The unfavourable end of each interval, which is what the pictures prove."""
    parts = []
    for metric in shown:
        estimate = metrics[metric.key]
        if "low" in estimate and metric.higher_is_better is not None and not metric.is_spread:
            end = estimate["low" if metric.higher_is_better else "high"]
            parts.append(f"{metric.label} {'' if metric.higher_is_better else '<= '}{quantity(end, metric.unit)}")
    return ", ".join(parts)
