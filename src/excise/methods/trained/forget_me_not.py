"""Forget-Me-Not: pictures pay no attention to the target's words any more.

Paper:      Zhang et al., "Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models", CVPR 2024 workshop,
            arXiv 2303.17591
Provenance: written from the paper and from the published behaviour of the program (MIT); no code of it is used

With A_l (queries, tokens) the attention of cross-attention layer l, and c the tokens of the target's words in its
prompts, on noised pictures x_t of the target,

    L = sqrt( sum_l sum_(i in c) |A_l[:, i]|^2 )        over all heads

The paper's optional first stage learns words for a concept that has none, as the attack `inversion` does.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.forget_me_not_config import ForgetMeNotConfig
from excise.training.adapters import linears
from excise.training.attention import captured, reading_layers
from excise.training.blocks import Batch
from excise.training.losses import attention_norm


class ForgetMeNot(Distilled[ForgetMeNotConfig]):
    """The method as the registry knows it."""

    Config = ForgetMeNotConfig
    located = True

    def targets(self, family: Family, config: ForgetMeNotConfig) -> list[str]:
        return linears(family, config.modules)

    def loss(self, batch: Batch, config: ForgetMeNotConfig) -> Tensor:
        family = batch.weights.family
        with captured(family, reading_layers(family)) as capture:
            batch.student(batch.concept)
        return attention_norm([*capture.maps.values()], batch.concept.words)
