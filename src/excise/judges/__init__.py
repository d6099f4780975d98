"""Judges by name: called with `weights`, a local folder or None, an entry says what it misses there.

Feature spaces, in which distances between image sets are taken, are listed beside them; no judge is made from them.
"""

from excise.judges.base import NONE, Judge
from excise.registry import Record, Registry

JUDGES = Registry(
    "judge",
    "excise.judges",
    {
        "canvas-judge-a": Record("excise.judges.canvas:judge_a", "objects and styles of Canvas, the verdict"),
        "canvas-judge-b": Record("excise.judges.canvas:judge_b", "the same, built and seeded differently"),
    },
)
FEATURES = Registry(
    "feature space",
    "excise.features",
    {"canvas-image-tower": Record("excise.judges.features:canvas_image_tower", "the pocket CLIP's image tower")},
)

__all__ = ["FEATURES", "JUDGES", "NONE", "Judge"]
