"""The networks of the two judges of Canvas, and their labels."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from excise.canvas import world
from excise.metrics.unlearning import NONE

LABELS: dict[str, tuple[str, ...]] = {
    "object": (*world.drawables(), NONE),
    "style": (*world.STYLES, NONE),
}


class PlainNet(nn.Module):
    """Judge "a": convolutions, batch norm and pooling; pixels (B, 3, 64, 64) to logits of objects and of styles."""

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
    """Judge "b": 4 x 4 patches, then residual depthwise blocks with group norm; input and output as `PlainNet`."""

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
