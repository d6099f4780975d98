"""The judges of Canvas: what object and what style an image shows, or none of those they know.

Two networks that share nothing but the labels: `CanvasJudge("a")` gives the verdict, `CanvasJudge("b")`, built and
seeded differently, says where the verdict is in doubt. Neither is ever an objective of a method or an attack; trained
methods choose blocks and checkpoints by the second, never by the one whose verdict counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from excise.built_in import WEIGHTS
from excise.canvas import world
from excise.judges.base import NONE, chunks

LABELS: dict[str, tuple[str, ...]] = {
    "object": (*world.drawables(), NONE),
    "style": (*world.STYLES, NONE),
}
ABSTAIN_BELOW = 0.5  # a verdict less likely than this is an abstention


class PlainNet(nn.Module):
    """Judge a: convolutions, batch norm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=1 if a == 3 else 2, padding=1),
                    nn.BatchNorm2d(b),
                    nn.ReLU(),
                    nn.MaxPool2d(2) if a == 3 else nn.Identity(),
                )
                for a, b in itertools.pairwise(widths)
            )
        )
        self.object = nn.Linear(192 * 16, len(LABELS["object"]))
        self.style = nn.Linear(192, len(LABELS["style"]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images)
        return self.object(features.flatten(1)), self.style(features.mean(dim=(2, 3)))


class ResidualNet(nn.Module):
    """Judge b: 4 x 4 patches, then residual depthwise blocks with group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, stride=4)
        self.early = nn.Sequential(*(_Residual(64) for _ in range(3)))
        self.halve = nn.Conv2d(64, 160, 2, stride=2)
        self.late = nn.Sequential(*(_Residual(160) for _ in range(4)))
        self.object = nn.Linear(160 * 4, len(LABELS["object"]))
        self.style = nn.Linear(64, len(LABELS["style"]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        early = self.early(self.patches(images))
        late = F.adaptive_avg_pool2d(self.late(self.halve(early)), 2).flatten(1)
        return self.object(late), self.style(early.mean(dim=(2, 3)))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.wide, self.narrow = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.narrow(F.gelu(self.wide(self.norm(self.mix(x)))))
        return out


NETWORKS: dict[str, type[PlainNet] | type[ResidualNet]] = {"a": PlainNet, "b": ResidualNet}


class CanvasJudge:
    """Object and style probabilities of images, with abstention.

    Args:
        which: "a" (the verdict) or "b" (the second opinion).

    >>> CanvasJudge.labels["style"][0]
    'plain'
    """

    labels = LABELS

    def __init__(self, which: str = "a", network: nn.Module | None = None) -> None:
        self.name = f"canvas-judge-{which}"
        self.network = network if network is not None else _load(which)

    @torch.no_grad()
    def probabilities(self, images: Sequence[Image.Image], batch: int = 256) -> dict[str, Tensor]:
        """Per head, (B, labels) probabilities; the last label is "none"."""
        parts = []
        for part in chunks(images, batch):
            x = as_tensor(part)
            parts.append([logits.softmax(dim=-1) for logits in self.network(x)])
        return {head: torch.cat(p) for head, p in zip(LABELS, zip(*parts, strict=True), strict=True)}

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """Per head, one label an image; "none" where the judge abstains."""
        found = {}
        for head, p in self.probabilities(images).items():
            top, index = p.max(dim=-1)
            sure = (top >= ABSTAIN_BELOW).tolist()
            found[head] = [LABELS[head][i] if s else NONE for i, s in zip(index.tolist(), sure, strict=True)]
        return found


def judge_a(weights: Path | None = None) -> CanvasJudge:
    """The verdict; its weights ship with the package."""
    return CanvasJudge("a")


def judge_b(weights: Path | None = None) -> CanvasJudge:
    """The second opinion; its weights ship with the package."""
    return CanvasJudge("b")


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """(B, 3, 64, 64) in -1..1."""
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
