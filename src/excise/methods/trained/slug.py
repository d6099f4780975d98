"""SLUG: one gradient, one layer, and a step whose length is searched by looking at pictures.

Paper:      Cai et al., "Targeted Unlearning with Single Layer Unlearning Gradient", ICML 2025, arXiv 2407.11867
Provenance: written from the paper's description; no code of it is used

With g_f the gradient of -|f(x_t, c) - e|^2 on noised pictures of the target, g_r that of |f(x'_t, r) - e|^2 on pictures
of what is kept, and W_l the weights of layer l, the layers of which none is better in both

    importance |g_f| / |W_l| (large)        alignment |cos(g_f, g_r)| (small)

are candidates; each is moved to W_l - s |W_l| g_f / |g_f|, with s found by bisection between a step at which the judge
still sees the target and one at which it does not, times a margin where that costs one picture of what is kept at most.
The candidate that scores best is the edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.edits.apply import temporarily_applied
from excise.edits.deltas import Dense
from excise.errors import SettingError, TrainingError
from excise.methods.trained.base import Trained
from excise.methods.trained.material import check_settings, check_single, drawn, source_of
from excise.methods.trained.slug_config import SLUGConfig
from excise.training.adapters import FullWeights
from excise.training.calibration import ROUNDING
from excise.training.config import DistilledConfig
from excise.training.losses import mse
from excise.training.probes import Preview, Rates
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of, training_mode
from excise.training.sources import Source

ENOUGH = 0.95  # of the target's pictures gone, at which a step is long enough


@dataclass(frozen=True)
class Layer:
    """A layer and its gradients: `forget` and `retain`, of the shape of its weight, whose norm is `size`."""

    path: str
    forget: Tensor
    retain: Tensor
    size: float

    @property
    def importance(self) -> float:
        """|g_f| / |W|."""
        return float(self.forget.norm()) / self.size

    @property
    def alignment(self) -> float:
        """|cos(g_f, g_r)|."""
        norms = float(self.forget.norm() * self.retain.norm())
        return abs(float((self.forget * self.retain).sum())) / norms if norms else 0.0

    def step(self, share: float) -> Dense:
        """The change by a share of the weight's own length, against the gradient of the forget loss."""
        return Dense((-share * self.size / self.forget.norm() * self.forget).cpu())


class SLUG(Trained[SLUGConfig]):
    """The method as the registry knows it."""

    config_base = DistilledConfig
    Config = SLUGConfig
    for_one = True

    def train(self, problem: TrainingProblem, config: SLUGConfig) -> TrainingResult:
        """Take the gradients, choose layers, and search a step for each.

        Raises:
            SettingError: there is no judge, or no layer has a gradient.
            TrainingError: a gradient is not finite.
        """
        check_settings(config)
        if config.by != "images":
            raise SettingError(
                f"slug takes its gradients on pictures, whose noise is known, and by was {config.by}; use --set "
                "by=images."
            )
        if config.retain_on == "latents":
            raise SettingError(
                "slug tells layers apart by pictures of what is kept, and retain_on was latents; use --set "
                "retain_on=pictures, or anchor."
            )
        check_single(problem.family, [m.path for m in problem.family.maps(config.modules)])
        preview = preview_of(problem)
        if preview is None:
            raise SettingError(
                "slug searches the length of its step by looking at pictures, and there is no judge; give one."
            )
        layers = front(gradients(problem, config))[: config.candidates]
        if not all(bool(layer.forget.isfinite().all() and layer.retain.isfinite().all()) for layer in layers):
            raise TrainingError(
                "the gradient of the target's denoising is not finite; load the model in single precision "
                "(--dtype float32)."
            )
        if not layers:
            raise SettingError("no layer has a gradient of the target's denoising; choose others (--set modules=...).")
        tried = []
        for i, layer in enumerate(layers):
            problem.say(f"searching the step in {layer.path}", i, len(layers))
            tried.append((layer, *searched(layer, preview, config)))
        problem.say("searching steps", len(layers), len(layers))
        layer, share, _ = max(tried, key=lambda t: t[2].score)
        rows = [
            {"layer": one.path, "importance": one.importance, "alignment": one.alignment, "share": s, **vars(r)}
            for one, s, r in tried
        ]
        evidence = {"judge": preview.scorer.name, "layer": layer.path, "share": share, "candidates": rows}
        return TrainingResult({layer.path: layer.step(share)}, evidence)


def gradients(problem: TrainingProblem, config: SLUGConfig) -> list[Layer]:
    """Of every layer that may be chosen."""
    family = problem.family
    paths = [m.path for m in family.maps(config.modules)]
    material = drawn(problem, config)
    with FullWeights(family, paths) as weights, training_mode(family, config.checkpointing, weights.text_encoders):
        source = source_of(problem, config, weights, material)
        forget, retain = (total(weights, source, config.steps, problem.seed, keep) for keep in (False, True))
        return [
            Layer(
                p,
                forget[f"{p}.weight"],
                retain[f"{p}.weight"],
                float(weights.parameters[f"{p}.weight"].detach().norm()),
            )
            for p in paths
            if bool(forget[f"{p}.weight"].any())
        ]


def total(weights: FullWeights, source: Source, passes: int, seed: int, keep: bool) -> Mapping[str, Tensor]:
    """The summed gradient of one of the two losses over some batches, by parameter."""
    summed = {name: torch.zeros_like(p) for name, p in weights.parameters.items()}
    for i in range(passes):
        batch = source.batch(torch.Generator().manual_seed(seed * 1_000_003 + i))
        loss = batch.retain_loss() if keep else -mse(batch.student(batch.concept), batch.truth())
        for name, g in zip(
            summed, torch.autograd.grad(loss, [*weights.parameters.values()], allow_unused=True), strict=True
        ):
            if g is not None:
                summed[name] += g
    return summed


def front(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that none other beats in importance and in alignment, most important first."""
    ordered = sorted(layers, key=lambda one: (-one.importance, one.alignment))
    chosen: list[Layer] = []
    for one in ordered:
        if not chosen or one.alignment < chosen[-1].alignment:
            chosen.append(one)
    return chosen


def searched(layer: Layer, preview: Preview, config: SLUGConfig) -> tuple[float, Rates]:
    """A step that erases, or the longest tried where none does, and what the judge sees then.

    It is the shortest found, lengthened by `margin` where the longest allows and of the probes of what is kept no more
    than one is lost by it.
    """

    def rated(share: float) -> Rates:
        with temporarily_applied(preview.family, {layer.path: layer.step(share)}):
            return preview.rates(preview.draw())

    low, high = 0.0, config.longest
    best = (high, rated(high))
    for _ in range(config.bisections):
        if best[1].erase < ENOUGH:
            break
        middle = (low + high) / 2
        rates = rated(middle)
        if rates.erase >= ENOUGH:
            high, best = middle, (middle, rates)
        else:
            low = middle
    further = min(config.margin * high, config.longest)
    if further == high:
        return best
    rates = rated(further)
    counts = Counter(p.role for p in preview.probes if p.role in ("related", "unrelated"))
    one_picture = 0.5 / min(counts.values(), default=1) + ROUNDING
    return (further, rates) if rates.retain >= best[1].retain - one_picture else best
