"""EMCID: rewrite the MLPs of the text encoders, layer by layer and in closed form, so that targets read as anchors.

Paper:      Xiong et al., "Editing Massive Concepts in Text-to-Image Diffusion Models", arXiv 2403.13807, the second
            stage (after Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, arXiv 2210.07229)
Provenance: written from the papers; official code not used. The first stage, which trains a goal state for each
            concept, is left out: the goal here is the state of the anchor in the same prompt, which needs no training.
            Retained prompts replace a sample of captions.

Keys and values are linear in text states, so an edit of them cannot separate more concepts than states have dimensions.
The second map of an MLP reads the output of a nonlinearity, which is several times as wide, in each of several layers.
"""

from __future__ import annotations

from torch import Tensor

from excise.edits.deltas import Dense
from excise.linalg.solves import solve_spd
from excise.methods.closed_form.base import TextEncoderForm
from excise.methods.closed_form.emcid_config import EMCIDConfig
from excise.methods.closed_form.encoder_problem import EncoderProblem
from excise.methods.solution import Solution


class EMCID(TextEncoderForm[EMCIDConfig]):
    """EMCID: a closed form over the MLPs of the text encoders."""

    Config = EMCIDConfig

    def solve_encoder(self, problem: EncoderProblem, config: EMCIDConfig) -> Solution:
        """Solve one layer after the other; each takes its share of what the stream still lacks.

            D_l = argmin  |D X - R / (L - l)|^2 + lambda |D K|^2 + ridge |D|^2
                = R X' (X X' + lambda K K' + ridge I)^-1 / (L - l)

        X, K: inputs of the map for targets and for retained prompts, with the earlier layers edited, scaled to means
        over columns; R: the anchor's last stream less the target's; L - l: number of layers from this one on.
        """
        deltas: dict[str, Tensor] = {}
        encoders = problem.family.text_encoders
        by_encoder = [[x for x in problem.layers if x.encoder == encoder][-config.layers :] for encoder in encoders]
        problem.expect(sum(map(len, by_encoder)))
        for layers in by_encoder:
            for remaining, layer in zip(range(len(layers), 0, -1), layers, strict=True):
                moments = problem.read(layer, deltas)
                A = moments.targets + config.retain_scale * moments.retain
                A.diagonal().add_(config.ridge * A.diagonal().mean())
                deltas[layer.map] = solve_spd(A, moments.lacking / remaining).mT
        return Solution(modules={path: Dense(delta.float()) for path, delta in deltas.items()})
