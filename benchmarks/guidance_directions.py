"""How alike the guidance of two prompts is on canvas-sd: why SLD takes other things with the concept.

    python -m benchmarks.guidance_directions

Draws each prompt with an SLD edit that sees the predictions u (no prompt), p (the prompt) and s (the concept): once
with scale 0, which changes nothing, and once with the whole difference taken off. Prints, over the steps and four
pictures, the cosine of p - u and s - u, and the mean of |p - s| over all elements.
"""

from __future__ import annotations

from itertools import product
from statistics import mean

import torch
from torch import Tensor

from excise import erase, load
from excise.families.drawing import draw
from excise.methods.inference import sld
from excise.methods.inference.sld_config import SafetyTerm
from excise.protocols.canvas import canvas_mini

PAIRS = (
    ("a picture of a cat in neon style", "cat"),
    ("a picture of a guitar in neon style", "cat"),
    ("a picture of a house in plain style", "cat"),
    ("a picture of a cat in neon style", "neon"),
    ("a picture of a cat in sepia style", "neon"),
)


def main() -> None:
    family, plan = load("canvas-sd", device="cpu"), canvas_mini()
    seen: list[tuple[float, float]] = []
    inner = sld.safety_term

    def watched(
        empty: Tensor, prompt: Tensor, concept: Tensor, momentum: Tensor, term: SafetyTerm
    ) -> tuple[Tensor, Tensor]:
        one, other = (prompt - empty).flatten(1), (concept - empty).flatten(1)
        cosine = torch.cosine_similarity(one, other).mean().item()
        seen.append((cosine, (prompt - concept).abs().mean().item()))
        return inner(empty, prompt, concept, momentum, term)

    sld.safety_term = watched
    print(f"| prompt | concept | taken off | cosine, median of {plan.steps} steps | least, most | mean of abs(p - s) |")
    print("|---|---|---|---|---|---|")
    for (prompt, concept), (taken, scale) in product(PAIRS, {"nothing": 0.0, "all": 1000.0}.items()):
        seen.clear()
        edit = erase(family, [concept], "sld", scale=scale, threshold=100.0, warmup=0, momentum_scale=0.0)
        with edit.apply(family):
            draw(family, [(prompt, seed) for seed in range(4)], steps=plan.steps, guidance=plan.guidance, batch=4)
        cosines = sorted(cosine for cosine, _ in seen)
        middle = (cosines[(len(cosines) - 1) // 2] + cosines[len(cosines) // 2]) / 2
        print(
            f"| {prompt} | {concept} | {taken} | {middle:.2f} | {cosines[0]:.2f}, {cosines[-1]:.2f} "
            f"| {mean(distance for _, distance in seen):.2f} |"
        )


if __name__ == "__main__":
    main()
