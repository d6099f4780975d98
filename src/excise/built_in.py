"""The models that ship inside the package: their names and where they lie."""

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "canvas" / "weights"
BUILT_IN = ("canvas-sd", "canvas-sdxl", "canvas-sana")


def is_built_in(family: Any) -> bool:
    """Whether the model of an adapter is one of those that ship with the package."""
    path = str(family.pipe.config.get("_name_or_path"))
    return any(path == str(WEIGHTS / name) for name in BUILT_IN)
