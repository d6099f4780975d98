"""zerase: in a model of one stream, a LoRA on the maps that read the text alone makes the concept its anchor.

Paper:      "Z-Erase", ICML 2026, arXiv 2603.25074
Provenance: written from accounts of the paper and from the published behaviour of the program

Where text and picture pass the same maps, a LoRA on these moves the picture as well, and generation collapses. Z-Erase
therefore lets it act on the rows of the text only, by a mask over positions that no LoRA file can hold. Here the maps
are those that see no picture at all: the doors of the text and its refiners. With the frozen model v*, latents x_t that
are in the middle of being denoised under a prompt c of the concept, the same prompt n with the anchor or nothing in the
concept's place, and a prompt r to retain,

    L_e = |v(x_t, c) - v*(x_t, n)|^2,    L_r = |v(x_t, r) - v*(x_t, r)|^2

The program learns a Lagrange multiplier of L_r. Here each step solves for it: of all directions that do not raise L_r
it takes the one nearest to the gradient of L_e, and the gradient of L_r beside it (combine=project).
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.zerase_config import ZEraseConfig
from excise.training.blocks import Batch
from excise.training.losses import mse


class ZErase(Distilled[ZEraseConfig]):
    """The method as the registry knows it."""

    Config = ZEraseConfig

    def targets(self, family: Family, config: ZEraseConfig) -> list[str]:
        refiners = [m.path for m in family.attention_maps() if m.source == "refiner"]
        return [*(m.path for m in family.maps("door")), *refiners]

    def loss(self, batch: Batch, config: ZEraseConfig) -> Tensor:
        """L_e."""
        return mse(batch.student(batch.concept), batch.teacher(batch.anchor))
