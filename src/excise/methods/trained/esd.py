"""ESD: the negated guidance of a frozen copy, distilled into the weights.

Paper:      Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023, arXiv 2303.07345, eq. 7
Provenance: written from the paper and from the published behaviour of both official programs (MIT)

With the frozen model f*, on latents x_t that are in the middle of being denoised under the concept c,

    L = |f(x_t, c) - g|^2,    g = f*(b) - eta (f*(c) - f*(0))        (target "negate", base b empty or c)
                              g = f*(0)   (target "neutral"),    g = f*(a), a the anchor   (target "anchor")

The first program has the empty prompt as base, the later one the concept itself: eta there is larger by one. The
coefficients of g sum to one, so it is the same target for noise, v and flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from excise.concepts.concept import fill
from excise.errors import SettingError
from excise.families.base import Condition
from excise.families.trajectories import partial_denoise
from excise.methods.trained.base import Trained
from excise.training.adapters import Adapter, FullWeights, Weights, choose_maps, other_linears
from excise.training.config import TrainedConfig
from excise.training.loop import Losses, Step
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import look_of, train


class ESDConfig(TrainedConfig):
    """Settings of ESD."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {"lr": 1e-3, "steps": 120, "save_every": 20, "batch": 8, "rank": 8, "sampler_steps": 12},
    }

    steps: int = Field(200, ge=1, description="Optimiser steps.")
    batch: int = Field(1, ge=1, description="Latents in a pass.")
    variant: Literal["x", "strict", "u"] = Field(
        "x", description="Train all of cross-attention (x), its keys and values (strict), or all other linear maps (u)."
    )
    weights: Literal["lora", "full"] = Field("lora", description="Train a LoRA, or the weights themselves.")
    target: Literal["negate", "neutral", "anchor"] = Field(
        "negate", description="What the concept's prediction becomes."
    )
    base: Literal["empty", "concept"] = Field(
        "empty", description="Where negation starts: the empty prompt (paper), or the concept (later program)."
    )
    eta: float = Field(1.0, ge=0, description="Strength of negation; with base=concept one more for the same effect.")
    by: Literal["student", "teacher"] = Field("student", description="Who denoises the latents: the model in training.")
    sampler_steps: int = Field(50, ge=2, description="Steps of the sampler that denoises them.")
    guidance: float = Field(3.0, ge=0, description="Its guidance.")


class ESD(Trained[ESDConfig]):
    """The method as the registry knows it."""

    Config = ESDConfig

    def train(self, problem: TrainingProblem, config: ESDConfig) -> TrainingResult:
        """Train on the targets' prompts, one target a pass, and keep the best checkpoint."""
        _check(problem, config)
        if config.variant == "u":
            paths = other_linears(problem.family)
        else:
            role = "cross_kv" if config.variant == "strict" else "cross"
            paths = [m.path for m in choose_maps(problem.family, role)]
        adapter: Weights = FullWeights(problem.family, paths)
        if config.weights == "lora":
            adapter = Adapter(problem.family, paths, config.rank, problem.seed)
        return TrainingResult(*train(problem, config, adapter, lambda a: step_of(problem, config, a), look_of(problem)))


def _check(problem: TrainingProblem, config: ESDConfig) -> None:
    """Raises:
    SettingError: a target without an anchor where there has to be one, or full weights in half precision.
    """
    bare = [c.name for c in problem.concepts if not c.anchor]
    if config.target == "anchor" and bare:
        raise SettingError(f"target=anchor needs something to read '{bare[0]}' as; name it with --anchor.")
    dtype = next(problem.family.denoiser.parameters()).dtype
    if config.weights == "full" and dtype != torch.float32:
        raise SettingError(
            f"weights=full trains the weights in single precision, and the model is loaded in {dtype}; load it with "
            "--dtype float32, or train a LoRA (--set weights=lora)."
        )


def step_of(problem: TrainingProblem, config: ESDConfig, adapter: Weights) -> Step:
    """One pass: latents on their way, and the frozen model's target for them."""
    family = problem.family
    prompts = [[p for word in c.words for p in fill(problem.templates[c.kind], word)] for c in problem.concepts]
    asked = [family.condition(p) for p in prompts]
    anchors = [
        family.condition([p for _ in c.words for p in fill(problem.templates[c.kind], c.anchor or "")])
        for c in problem.concepts
    ]
    empty = family.unconditional()
    shape = family.latent_shape

    def step(generator: torch.Generator) -> Losses:
        i = int(torch.randint(len(asked), (1,), generator=generator))
        rows = torch.randint(len(asked[i]), (config.batch,), generator=generator)
        done = int(torch.randint(config.sampler_steps, (1,), generator=generator))
        noise = torch.randn(config.batch, *shape, generator=generator)
        c, a, free = asked[i][rows], anchors[i][rows], empty[[0] * len(rows)]
        with torch.no_grad():
            with adapter.teacher() if config.by == "teacher" else nullcontext():
                x, t = partial_denoise(
                    family,
                    c,
                    free,
                    noise,
                    steps=config.sampler_steps,
                    done=done,
                    guidance=config.guidance,
                )
            with adapter.teacher():
                goal = wanted(config, lambda condition: family.predict(x, t, condition), c, free, a)
        loss = (family.predict(x, t, c) - goal).square().mean()
        return {"loss": loss}

    return step


def wanted(config: ESDConfig, teacher: Any, c: Condition, free: Condition, anchor: Condition) -> Tensor:
    """g, from the frozen model's predictions."""
    if config.target == "neutral":
        return teacher(free)
    if config.target == "anchor":
        return teacher(anchor)
    of_c, of_nothing = teacher(c), teacher(free)
    base = of_c if config.base == "concept" else of_nothing
    found: Tensor = base - config.eta * (of_c - of_nothing)
    return found
