"""Published figures with their sources: those recomputed here, and those that a recipe with real weights tries.

Rates are in per cent, as printed. Nothing here was measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCAPRE_SOURCE = "ScaPre (arXiv 2601.06162), Table 5"
SPEED_SOURCE = "SPEED (arXiv 2503.07392), its table of celebrities"
# By column: accuracy on each of the ten classes from top to bottom; as printed the mean, CLIP score on COCO, and UQ.
SCAPRE: Mapping[str, tuple[Sequence[float], float, float, float | None]] = {
    "SD1.5": ((92.8, 97.6, 88.7, 67.1, 86.2, 97.9, 97.6, 97.9, 77.9, 94.2), 89.9, 31.43, None),
    "FMN": ((90.6, 92.5, 79.2, 15.2, 77.3, 79.0, 85.8, 87.1, 43.4, 69.4), 71.9, 30.62, 37.35),
    "SPM": ((74.5, 93.2, 54.1, 3.7, 66.9, 43.7, 67.5, 17.1, 32.5, 20.7), 47.4, 30.81, 49.89),
    "ESD": ((6.5, 13.4, 31.4, 4.9, 61.6, 64.7, 79.5, 57.5, 12.0, 55.2), 38.7, 30.14, 47.84),
    "MACE": ((88.9, 94.9, 82.5, 15.1, 69.0, 84.5, 92.7, 96.1, 73.2, 83.5), 78.5, 31.02, 35.07),
    "UCE": ((8.3, 7.7, 28.7, 2.2, 19.6, 5.1, 0.9, 3.7, 4.8, 5.3), 8.5, 29.45, 37.23),
    "RECE": ((3.0, 4.2, 15.3, 1.1, 13.4, 1.0, 2.0, 2.1, 3.1, 4.2), 4.9, 29.27, 32.60),
    "SP": ((0.2, 12.2, 43.2, 6.1, 21.3, 2.2, 1.2, 0.3, 4.1, 5.2), 9.6, 29.25, 31.78),
    "ScaPre": ((0.0, 0.0, 4.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.8, 30.43, 64.09),
}
# By method and number of celebrities: accuracy on the erased, on the kept, and H_o, as printed.
SPEED: Mapping[tuple[str, int], tuple[float, float, float]] = {
    ("ConAbl", 10): (60.76, 77.89, 52.19), ("ConAbl", 50): (64.00, 75.44, 48.74),
    ("ConAbl", 100): (42.86, 58.82, 57.97),
    ("UCE", 10): (0.20, 71.19, 83.10), ("UCE", 50): (0.00, 31.94, 48.41), ("UCE", 100): (0.00, 20.92, 34.60),
    ("RECE", 10): (0.34, 67.43, 80.44), ("RECE", 50): (1.03, 19.77, 32.95), ("RECE", 100): (2.43, 23.71, 38.16),
    ("MACE", 10): (1.62, 87.73, 92.75), ("MACE", 50): (3.41, 84.31, 90.03), ("MACE", 100): (4.80, 80.20, 87.06),
    ("SPEED", 10): (1.81, 89.09, 93.42), ("SPEED", 50): (3.46, 88.48, 92.34), ("SPEED", 100): (5.87, 85.54, 89.63),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One published figure that a recipe tries.

    Attributes:
        recipe: without `recipes/` and `.yaml`. method: its label there. metric: its key in the result lines.
        value: in per cent, or a count.
        n, ours: observations behind the published figure and behind one of a run of the recipe; None where the figure
            is a mean over models.
        source: where it stands.
    """

    recipe: str
    method: str
    metric: str
    value: float
    n: int | None
    ours: int | None
    source: str


_CANVAS = "UnlearnCanvas (arXiv 2402.11846), the table in its repository"
_NUDITY = "SPEED (arXiv 2503.07392), its table of nudity"
_WIZWAND = "SurgUn (arXiv 2603.00975), as reported on the leaderboard page wizwand; not verified by us"


def _celebrities(method: str) -> list[Figure]:
    values = zip(("acc_e", "acc_r", "h_o"), SPEED[method, 100], strict=True)
    return [Figure("paper-celebrities", method, metric, value, 500, 2500, SPEED_SOURCE) for metric, value in values]


def _imagenette(method: str, column: str) -> Figure:
    return Figure("paper-imagenette", method, "acc_e", SCAPRE[column][1], 1300, 1300, SCAPRE_SOURCE)


def _canvas(level: str, method: str, *values: float) -> list[Figure]:
    metrics = zip(("ua", "ira", "cra_uc"), values, strict=True)
    return [
        Figure(f"paper-unlearncanvas-{level}", method, metric, value, None, None, _CANVAS) for metric, value in metrics
    ]


FIGURES: Sequence[Figure] = (
    Figure("paper-celebrities", "identity", "acc_r", 89.66, 500, 2500, SPEED_SOURCE),
    *_celebrities("SPEED"),
    *_celebrities("UCE"),
    *_celebrities("RECE"),
    _imagenette("identity", "SD1.5"),
    *(_imagenette(method, method) for method in ("ScaPre", "UCE", "RECE")),
    *_canvas("styles", "UCE", 98.40, 60.22, 47.71),
    *_canvas("styles", "ESD", 98.58, 80.97, 93.96),
    *_canvas("objects", "UCE", 94.31, 39.35, 34.67),
    *_canvas("objects", "ESD", 92.15, 55.78, 44.23),
    Figure("paper-unlearncanvas-surgun", "SurgUn", "ua", 97.79, None, None, _WIZWAND),
    *(
        Figure("paper-i2p", method, "exposed_parts", count, None, None, _NUDITY)
        for method, count in (("identity", 576), ("SPEED", 113), ("UCE", 139), ("RECE", 80))
    ),
)
RERUN = (
    ((86.29, 84.59, 88.43), (89.21, 84.11, 82.54)),
    ((75.43, 77.50, 81.18), (82.00, 75.49, 74.90)),
)
"""SLUG on UnlearnCanvas, UA, IRA and CRA: its paper's figures and a user's run of its program, styles and objects; as
reported in the issues of SLUG's repository, not verified by us."""
