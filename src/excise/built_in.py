"""The models that ship inside the package: their names and where they lie."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "canvas" / "weights"
BUILT_IN = ("canvas-sd", "canvas-sdxl", "canvas-sana")
