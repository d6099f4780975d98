"""Measure how much ScaPre's decoupler distinguishes between rows of a real model.

    python -m benchmarks.saturation [--names 50]

On the keys and values of `canvas-sd`, for names of Canvas, it prints by noise of the copies the share of (row, name)
pairs whose mutual information has its maximum value, and the coefficient of variation over rows of a name's weights,
next to that of the squared cosine. 0 means a decoupler that does not distinguish rows.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from excise import load
from excise.canvas import world
from excise.edits.originals import original_weights
from excise.methods.closed_form.informax import Noisy, cosine, mutual_information, soft_mask

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
COPIES, TEMPERATURE, POWER = 5, 0.7, 8.0


def variation(weights: Tensor) -> float:
    """Return the coefficient of variation over rows (dimension 0), averaged over concepts."""
    return float((weights.std(dim=0) / weights.mean(dim=0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", type=int, default=50)
    options = parser.parse_args()
    family = load("canvas-sd")
    names = list(world.NAMES)[: options.names]
    states = family.encode([*names, ""], [*names, None])
    concepts = torch.cat([states.span(i, "last") for i in range(len(names))]).double()
    empty = states.span(len(names), "all")[1].double()
    spread = float(concepts.std(dim=0).mean())
    maps = [w.double() for w in original_weights(family).values()]
    print(f"{len(names)} names, {sum(map(len, maps))} rows; text states spread by {spread:.2f} (standard deviation)")
    for noise in NOISES:
        generator = torch.Generator().manual_seed(0)
        at = [Noisy.draw(s, len(concepts), COPIES, noise, generator) for s in (concepts, empty[None])]
        information = [mutual_information(w, *at) for w in maps]
        full = torch.cat(information) > math.log(2) - 1e-6
        masks = [variation(soft_mask(i, TEMPERATURE, POWER)) for i in information]
        ratios = [variation(i) for i in information]
        print(
            f"noise {noise:g}: {100 * float(full.double().mean()):.1f} % at ln 2; variation of the weights: ratio "
            f"{sum(ratios) / len(ratios):.2f}, soft mask (p {POWER:g}) {sum(masks) / len(masks):.2f}"
        )
    squared = [variation(cosine(w, concepts, empty)) for w in maps]
    print(f"cosine: variation {sum(squared) / len(squared):.2f}")


if __name__ == "__main__":
    main()
