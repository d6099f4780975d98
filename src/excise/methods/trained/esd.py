"""ESD: the negated guidance of a frozen copy, distilled into the weights.

Paper:      Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023, arXiv 2303.07345, eq. 7
Provenance: written from the paper and from the published behaviour of both official programs (MIT)

With the frozen model f*, on latents x_t that are in the middle of being denoised under the concept c,

    L = |f(x_t, c) - g|^2,    g = f*(b) - eta (f*(c) - f*(0))        (target "negate", base b empty or c)
                              g = f*(0)   (target "neutral"),    g = f*(a), a the anchor   (target "anchor")

The first program has the empty prompt as base, the later one the concept itself: eta there is larger by one. The
coefficients of g sum to one, so it is the same target for noise, v and flow. Three methods are settings of this one:

    SDD (Kim et al., arXiv 2307.05977; target "self")     g = f(x_t, 0) of the model in training, without gradients,
                                                          whose running mean denoises the latents and is the edit
    All but One (Hong et al., arXiv 2312.12807; target "guidance")
                                  L = |(f(c) - f(0)) - (f*(a) - f*(0))|^2 + lambda |f(0) - f*(0)|^2
    TRACE (arXiv 2505.23312; earliest, first)             latents of the late steps alone, on top of a closed form; as
                                                          its abstract describes it, for no program is known
"""

from __future__ import annotations

from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.trained.base import ClosedFormStage, Distilled
from excise.methods.trained.esd_config import ESDConfig
from excise.training.adapters import other_linears
from excise.training.blocks import Batch
from excise.training.losses import mse, push_away
from excise.training.problem import TrainingProblem


class ESD(Distilled[ESDConfig]):
    """The method as the registry knows it."""

    Config = ESDConfig

    def closed_form(self, config: ESDConfig) -> ClosedFormStage | None:
        return (
            (UCE(), UCEConfig(retain_scale=config.retain_scale, ridge=config.ridge)) if config.first == "uce" else None
        )

    def check(self, problem: TrainingProblem, config: ESDConfig) -> None:
        super().check(problem, config)
        bare = [c.name for c in problem.concepts if not c.anchor]
        if config.target == "anchor" and bare:
            raise SettingError(f"target=anchor needs something to read '{bare[0]}' as; name it with --anchor.")
        if config.target == "guidance" and config.train == "text_encoder":
            raise SettingError("target=guidance trains the unconditional half, which has no text; use train=denoiser.")

    def targets(self, family: Family, config: ESDConfig) -> list[str]:
        if config.train == "text_encoder":
            return [m.path for m in family.maps(f"text_{config.encoder_maps}")]
        if config.variant == "u":
            return other_linears(family)
        return [m.path for m in family.maps("cross_kv" if config.variant == "strict" else "cross")]

    def loss(self, batch: Batch, config: ESDConfig) -> Tensor:
        if config.target == "guidance":
            return guidance_loss(batch, config.uncond_weight)
        return mse(batch.student(batch.concept), goal(batch, config))


def goal(batch: Batch, config: ESDConfig) -> Tensor:
    """g, (B, c, h, w), from predictions of the frozen model, as it was before a closed form."""
    if config.target == "anchor":
        return batch.originals(batch.anchor)[0]
    if config.target == "neutral":
        return batch.originals(batch.empty)[0]
    if config.target == "self":
        return batch.student(batch.empty).detach()
    empty, concept = batch.originals(batch.empty, batch.concept)
    return push_away(empty, concept, concept if config.base == "concept" else empty, config.eta)


def guidance_loss(batch: Batch, weight: float) -> Tensor:
    """All but One: the concept's guidance becomes the anchor's, and the unconditional prediction stays.

    Without an anchor, the guidance becomes that of the prompt without the concept's name.

    The paper's text was not at hand; this is the form that its abstract describes.

    Args:
        weight: lambda.
    """
    empty, anchor = batch.originals(batch.empty, batch.anchor)
    own, free = batch.student(batch.concept), batch.student(batch.empty)
    return mse(own - free, anchor - empty) + weight * mse(free, empty)
