"""EMCID: what the text encoder knows of a target rewritten, layer by layer, in closed form.

Paper:      Xiong et al., "Editing Massive Concepts in Text-to-Image Diffusion Models", arXiv 2403.13807, the second
            stage (after Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, arXiv 2210.07229)
Provenance: written from the papers; official code not used. The first stage, which trains a wanted state for each
            concept, is left out: what a target's token should become is its anchor's in the same prompt, known without
            training. Retained prompts take the place of a sample of captions.

Keys and values are linear in text states, so no edit of them can tell more concepts apart than states are wide. The
second map of an MLP reads what a nonlinearity made, several times as wide, in each of several layers.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from excise.edits.deltas import Dense
from excise.linalg.solves import solve_spd
from excise.methods.closed_form.base import TextEncoderForm
from excise.methods.closed_form.encoder_problem import EncoderProblem
from excise.methods.solution import Solution
from excise.support.settings import Settings


class EMCIDConfig(Settings):
    """Settings of EMCID."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0))
    layers: int = Field(4, ge=1, description="Layers of each text encoder to edit, the last ones that are read.")
    retain_scale: float = Field(10.0, ge=0, description="Weight of what is kept beside the targets (lambda).")
    ridge: float = Field(
        1e-3, gt=0, description="Pull towards the original weights, in units of the mean eigenvalue of the rest."
    )


class EMCID(TextEncoderForm[EMCIDConfig]):
    """The method as the registry knows it."""

    Config = EMCIDConfig

    def solve_encoder(self, problem: EncoderProblem, config: EMCIDConfig) -> Solution:
        """One layer after the other takes its share of what the stream still lacks.

            D_l = argmin  |D X - R / (L - l)|^2 + lambda |D K|^2 + ridge |D|^2
                = R X' (X X' + lambda K K' + ridge I)^-1 / (L - l)

        X, K: what the map reads of targets and of what is kept with the layers before it edited, columns scaled to
        means; R: what the stream at the end lacks; L - l: layers left, this one included.
        """
        deltas: dict[str, Tensor] = {}
        for encoder in problem.family.text_encoders:
            layers = [layer for layer in problem.layers if layer.encoder == encoder][-config.layers :]
            for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
                seen = problem.read(layer, deltas)
                A = seen.targets + config.retain_scale * seen.retain
                A.diagonal().add_(config.ridge * A.diagonal().mean())
                deltas[layer.map] = solve_spd(A, seen.lacking / left).mT
        return Solution(modules={path: Dense(delta.float()) for path, delta in deltas.items()})
