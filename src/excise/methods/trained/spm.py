"""SPM: adapters of rank one that erase a concept, hold everything else, and open only for prompts that are near it.

Paper:      Lyu et al., "One-Dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications",
            CVPR 2024, arXiv 2312.16145, eq. 4 to 7
Provenance: written from the paper and from the published behaviour of the program (Apache-2.0); no code of it is used

With the untouched model f*, latents x_t that are in the middle of being denoised under the concept c, and random text
states z of about the size of the concept's (latent anchoring),

    L = |f(x_t, c) - (f*(0) - eta (f*(c) - f*(0)))|^2 + lambda |f(x_t, z) - f*(x_t, z)|^2

While the model draws, the adapters are scaled by the gate of the prompt (facilitated transport, `PromptGate`). The
program draws z until it has one that is far from c: of random directions in so many dimensions, all are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.edits.deltas import LowRank
from excise.errors import SettingError
from excise.families.base import Family
from excise.families.capabilities import CLIP_TEXT
from excise.families.conditions import Condition
from excise.families.subjects import padded_ids
from excise.methods.trained.base import Stepped, with_retention
from excise.methods.trained.spm_config import SPMConfig
from excise.methods.trained.spm_gate import PAD, PromptGate, shares_of
from excise.training.adapters import Weights, block_linears
from excise.training.blocks import Batch
from excise.training.loop import Losses, Step
from excise.training.losses import mse, push_away
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.sources import Source

HIGHEST = 0.99  # floor of a gate, above which hardly any prompt would open it
POOLED = ("text_embeds", "pooled_projections")  # inputs of the denoiser that hold whole prompts


class SPM(Stepped[SPMConfig]):
    """The method as the registry knows it."""

    Config = SPMConfig
    for_one = True

    def check(self, problem: TrainingProblem, config: SPMConfig) -> None:
        super().check(problem, config)
        if config.weights == "full" and gated(problem, config):
            raise SettingError(
                "the gate opens adapters, and weights=full trains none; use --set gate=false, or --set weights=lora."
            )

    def targets(self, family: Family, config: SPMConfig) -> list[str]:
        return block_linears(family)

    def train(self, problem: TrainingProblem, config: SPMConfig) -> TrainingResult:
        """Train the adapters, and put the gate before them where the text encoder is a CLIP."""
        trained = super().train(problem, config)
        if not gated(problem, config):
            return trained
        factors = {path: delta for path, delta in trained.modules.items() if isinstance(delta, LowRank)}
        return replace(trained, modules={}, hooks=(gate(problem, factors),))

    def preview(self, problem: TrainingProblem, config: SPMConfig) -> Preview | None:
        """As of others; prompts for which the gate is shut are not drawn again, for nothing becomes of them."""
        preview = super().preview(problem, config)
        if preview is not None and gated(problem, config):
            preview.leave(shut(problem, [p.prompt for p in preview.probes]))
        return preview

    def step(self, problem: TrainingProblem, config: SPMConfig, weights: Weights, source: Source) -> Step:
        def step(generator: torch.Generator) -> Losses:
            batch = source.batch(generator)
            losses = with_retention(batch, erase_loss(batch, config.eta), config)
            anchoring = anchoring_loss(batch, random_states(batch.concept.teacher, generator))
            loss = losses["loss"] + config.anchoring_weight * anchoring
            return {**losses, "loss": loss, "anchoring": anchoring}

        return step


def gated(problem: TrainingProblem, config: SPMConfig) -> bool:
    """Whether the edit has a gate: it reads a CLIP text encoder."""
    return config.gate and CLIP_TEXT in problem.family.provides


def gate(problem: TrainingProblem, factors: Mapping[str, LowRank]) -> PromptGate:
    """The gate of the concepts' names, shut for every prompt that is to be retained and speaks of none of them."""
    tokenizer = problem.family.tokenizers[next(iter(problem.family.text_encoders))]
    words = [word for c in problem.concepts for word in c.words]
    rows = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    tokens = torch.full((len(rows), max(map(len, rows))), PAD)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row).float()
    _, states = read(problem.family, words)
    named = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words), re.IGNORECASE)
    ids, far = read(problem.family, [p for p in (*problem.retain, "") if not named.search(p)])
    floor = min(float((far @ states.mT).max()), HIGHEST)
    overlap = min(float(shares_of(ids, tokens).max()), HIGHEST)
    return PromptGate(factors=factors, states=states, tokens=tokens, floor=floor, overlap=overlap)


def shut(problem: TrainingProblem, prompts: Sequence[str]) -> list[bool]:
    """Of each prompt whether the gate is shut for it."""
    ids, pooled = read(problem.family, prompts)
    return [value == 0 for value in gate(problem, {}).gates(pooled, ids).tolist()]


@torch.no_grad()
def read(family: Family, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What a gate reads of prompts: token numbers (B, L), and pooled states (B, d) of length one."""
    name, encoder = next(iter(family.text_encoders.items()))
    ids = padded_ids(family.tokenizers[name], texts, family.max_tokens)
    output = encoder(ids.to(next(encoder.parameters()).device))
    state: Tensor = output.pooler_output if "pooler_output" in output else output.text_embeds
    return ids, F.normalize(state.float(), dim=-1).cpu()


def erase_loss(batch: Batch, eta: float) -> Tensor:
    """The first term of L."""
    empty, concept = batch.teachers(batch.empty, batch.concept)
    return mse(batch.student(batch.concept), push_away(empty, concept, empty, eta))


def anchoring_loss(batch: Batch, states: Condition) -> Tensor:
    """The second term of L, without its weight, at conditions (B) of random text states."""
    family = batch.weights.family
    with batch.weights.teacher(), torch.no_grad():
        goal = family.predict(batch.x_t, batch.t, states)
    return mse(family.predict(batch.x_t, batch.t, states), goal)


def random_states(condition: Condition, generator: torch.Generator) -> Condition:
    """Conditions of Gaussian directions, each 0.8 to 1.2 times as long as the prompt's own; masks and the rest stay."""

    def drawn(states: Tensor) -> Tensor:
        flat = states.flatten(1).float()
        noise = torch.randn(flat.shape, generator=generator).to(flat)
        length = flat.norm(dim=1) * (0.8 + 0.4 * torch.rand(len(flat), generator=generator).to(flat))
        return (noise / noise.norm(dim=1, keepdim=True) * length[:, None]).view_as(states).to(states)

    inputs = {name: drawn(t) if t.dim() > 2 or name in POOLED else t for name, t in condition.inputs.items()}
    return Condition(inputs, condition.masks)
