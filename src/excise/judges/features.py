"""Feature extractors for distances between image sets (KID), none of them trained together with a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from excise.canvas.clip import shipped_image_tower
from excise.judges.base import chunks
from excise.judges.canvas import as_tensor

Features = Callable[[Sequence[Image.Image]], np.ndarray]
"""n images to features (n, d), float64."""


def canvas_image_tower(weights: Path | None = None) -> Features:
    """Return the image tower of the built-in CLIP: n images to unit features (n, 256), float64.

    Its weights ship with the package, so `weights` is ignored.
    """
    tower = shipped_image_tower()

    @torch.no_grad()
    def features(images: Sequence[Image.Image]) -> np.ndarray:
        return torch.cat([tower(as_tensor(part)) for part in chunks(images)]).double().numpy()

    return features
