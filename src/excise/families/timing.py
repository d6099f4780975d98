"""How fast a model is on this machine."""

from __future__ import annotations

import time

import torch

from excise.families.base import Family

BATCH = 8


def seconds_per_pass(family: Family) -> float:
    """Time the denoiser on a batch, and return seconds per latent."""
    condition = family.condition(["a"] * BATCH)
    latents = torch.randn(BATCH, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((BATCH,), 500.0 if family.prediction == "flow" else 500)
    with torch.no_grad():
        family.predict(latents, t, condition)
        start = time.perf_counter()
        family.predict(latents, t, condition)
        return (time.perf_counter() - start) / BATCH
