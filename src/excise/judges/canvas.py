"""The two judges of Canvas, which name the object and the style that an image shows, or abstain.

They share the labels and nothing else. The verdicts of judge "a" are the results; judge "b", of another architecture
and seed, marks the images on which the two disagree. Neither is ever an objective of a method or an attack. Trained
methods choose blocks and checkpoints by judge "b" alone, so that no result is selected by the judge that reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from excise.canvas.judge_nets import LABELS, NETWORKS
from excise.families.built_in import WEIGHTS
from excise.judges.base import chunks
from excise.judges.scored import ScoredJudge

ABSTAIN_BELOW = 0.5  # the judge abstains where its likeliest label has a lower probability


class CanvasJudge(ScoredJudge):
    """A judge with two heads, "object" and "style".

    Args:
        which: "a" (its verdicts are the results) or "b" (the second opinion).
        network: images (B, 3, 64, 64) to one tensor of logits for each head; by default the shipped one.

    >>> CanvasJudge.labels["style"][0]
    'plain'
    """

    labels = LABELS
    threshold = ABSTAIN_BELOW

    def __init__(self, which: str = "a", network: nn.Module | None = None) -> None:
        self.name = f"canvas-judge-{which}"
        self.network = network if network is not None else _load(which)

    @torch.no_grad()
    def scores(self, images: Sequence[Image.Image], batch: int = 64) -> dict[str, Tensor]:
        """Return, by head, the probabilities (n, labels) of n images; the last label is "none"."""
        parts = []
        for part in chunks(images, batch):
            x = as_tensor(part)
            parts.append([logits.softmax(dim=-1) for logits in self.network(x)])
        return {head: torch.cat(p) for head, p in zip(LABELS, zip(*parts, strict=True), strict=True)}


def judge_a(weights: Path | None = None) -> CanvasJudge:
    """Return judge "a"; its weights ship with the package, so `weights` is ignored."""
    return CanvasJudge("a")


def judge_b(weights: Path | None = None) -> CanvasJudge:
    """Return judge "b"; its weights ship with the package, so `weights` is ignored."""
    return CanvasJudge("b")


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return n images as pixels (n, 3, 64, 64) in -1..1, resized where needed."""
    pixels = [np.asarray(i.convert("RGB").resize((64, 64))) for i in images]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


@lru_cache(maxsize=2)
def _load(which: str) -> nn.Module:
    network = NETWORKS[which]()
    network.load_state_dict(
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(WEIGHTS / f"judge-{which}.safetensors").items()
        }
    )
    return network.eval()
