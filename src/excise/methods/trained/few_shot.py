"""Few-shot erasing: the text encoder unlearns to guide the denoising of a few pictures of the target.

Paper:      Fuchi and Takagi, "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning", BMVC
            2024, arXiv 2405.07288
Provenance: written from the paper's description and from the published behaviour of the program (MIT)

Gradient ascent on the denoising loss of noised pictures x_t of the target under its prompts c, in the text encoder T,

    L = -min(|f*(x_t, T(c)) - e|^2, m)

The paper's ascent is unbounded, and its number of steps the strength: bound=0 has that. The bound m is ours.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.few_shot_config import FewShotConfig
from excise.training.blocks import Batch
from excise.training.losses import bounded_ascent, squares


class FewShot(Distilled[FewShotConfig]):
    """The method as the registry knows it."""

    Config = FewShotConfig

    def targets(self, family: Family, config: FewShotConfig) -> list[str]:
        """The MLPs of the text encoders, and the attention of the last layer of each."""
        mlps = family.maps("text_mlp")
        last = {m.path.partition(".")[0]: m.block for m in mlps}  # by encoder; maps are in the order of layers
        attention = [m for m in family.maps("text_all") if m.part == "attention" and m.block in last.values()]
        return [m.path for m in (*mlps, *(attention if config.last_attention else ()))]

    def loss(self, batch: Batch, config: FewShotConfig) -> Tensor:
        error = squares(batch.student(batch.concept), batch.truth())
        return bounded_ascent(error, config.bound) if config.bound else -error.mean()
