"""FADE: the distance of an erased model to one never trained on the concept, by predictions on each other's images.

Idea: arXiv 2510.12981. For images of p and the same noised latents for both models, the path between their samplers
bounds the divergence of what they draw:

    K(p | q) = E_{x0 ~ p, t, noise}  w(t) |e_p(x_t, t, c) - e_q(x_t, t, c)|^2 / elements,    w = 1
    FADE     = K(u | r) + K(r | u)

It needs no classifier. Report it with its floor (two models without the concept, trained with different seeds) and
its ceiling (the untouched model against one without the concept). The weights w(t) are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from excise.edits.edit import Edit, applied
from excise.families.base import Family, split
from excise.metrics.rates import Estimate, bootstrap

TIMES = 8  # noise levels for each image, one in each slice of the schedule
BATCH = 64


def fade(
    erased: Family,
    edits: Sequence[Edit],
    oracle: Family,
    prompts: Sequence[str],
    images: tuple[Sequence[Image.Image], Sequence[Image.Image]],
    seed: int = 0,
) -> Estimate:
    """FADE over prompts, with a bootstrap interval over them.

    Args:
        erased, edits: the model to measure; its edits are applied during the call.
        oracle: a model of the same family with the same autoencoder and text encoder.
        images: the images of the erased model and of the oracle for `prompts`, in the same order.
    """
    with applied(erased, edits), torch.autocast(erased.device.type, enabled=False):
        both = np.add(*(distance(erased, oracle, prompts, own, seed) for own in images))
    return bootstrap(list(both[:, None]), lambda pooled: float(pooled.mean()))


@torch.no_grad()
def distance(
    one: Family, other: Family, prompts: Sequence[str], images: Sequence[Image.Image], seed: int
) -> np.ndarray:
    """(n,) mean squared difference of the two models' noise predictions on noised `images`, by image."""
    plan = one.noising
    generator = torch.Generator().manual_seed(seed)
    clean = one.latents(images)
    times = plan.times(len(clean), TIMES, generator=generator)
    noise = torch.randn(len(clean), TIMES, *clean.shape[1:], generator=generator)
    condition = one.condition(list(prompts))
    rows = [(i, j) for i in range(len(clean)) for j in range(TIMES)]
    differences = torch.zeros(len(clean), TIMES, dtype=torch.float64)
    for part in split(rows, BATCH):
        i, j = (torch.tensor(column) for column in zip(*part, strict=True))
        t = times[i, j]
        noised = plan.add(clean[i], noise[i, j], t)
        predictions = [plan.noise(family.predict(noised, t, condition[i]).cpu(), noised, t) for family in (one, other)]
        differences[i, j] = (predictions[0] - predictions[1]).square().mean(dim=(1, 2, 3)).double()
    return differences.mean(dim=1).numpy()
