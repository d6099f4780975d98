"""Feature spaces for distances between image sets (KID). None of them is a judge, or was used to make one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from excise.canvas.clip import ImageTower
from excise.judges.base import chunks
from excise.judges.canvas import WEIGHTS, as_tensor


@torch.no_grad()
def canvas_image_tower(images: Sequence[Image.Image]) -> np.ndarray:
    """(B, 256) float64 unit features of the pocket CLIP's image tower."""
    tower = _tower()
    return torch.cat([tower(as_tensor(part)) for part in chunks(images)]).double().numpy()


@lru_cache(maxsize=1)
def _tower() -> nn.Module:
    state = load_file(WEIGHTS / "image-tower.safetensors")
    tower = ImageTower()
    tower.load_state_dict({k.removeprefix("image."): v.float() for k, v in state.items() if k.startswith("image.")})
    return tower.eval()
