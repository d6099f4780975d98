"""What a distilled method trains, and what on: weights, latents, prompts and pictures, as its settings ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from excise.concepts.concept import Concept, fill
from excise.edits.deltas import Delta, LowRank
from excise.errors import SettingError, TrainingError
from excise.families.base import Family
from excise.support.selection import evenly
from excise.training.adapters import Adapter, FullWeights, Weights
from excise.training.averaging import Average
from excise.training.blocks import Prompts, empty_prompt, prompts_of
from excise.training.config import DistilledConfig
from excise.training.masking import Masked
from excise.training.pictures import picture_seed
from excise.training.problem import TrainingProblem
from excise.training.sources import Kept, NoisedPictures, Pictures, Pool, Source, Trajectories
from excise.training.sparsity import SparseAdapter


@dataclass(frozen=True)
class Material:
    """Pictures that the untouched model drew before training.

    Attributes:
        latents: by target, (n, c, h, w) of pictures of it or of its anchor, under its prompts in their order.
        kept: (n, c, h, w) of pictures of what is to be retained; None where none are asked for.
        captions: the prompts of these.
    """

    latents: Sequence[Tensor] = ()
    kept: Tensor | None = None
    captions: Sequence[str] = ()


NOTHING_DRAWN = Material()


def check_settings(config: DistilledConfig) -> None:
    """Refuse settings that exclude one another; those that nothing reads are refused before (`configure`).

    Raises:
        SettingError: they do; the message names both.
    """
    if config.sparsity and config.ema:
        raise SettingError("a running mean of a LoRA never empties a block; use --set ema=0 with sparsity.")
    if config.mask != "none" and config.weights != "full":
        raise SettingError(
            f"mask={config.mask} chooses entries of the weights themselves, and a LoRA has none of them; use --set "
            "weights=full, or --set mask=none."
        )
    if config.by == "mean" and "ema" in config.unread:
        raise SettingError(
            "by=mean needs a running mean of the weights, and this method keeps none; use --set by=student, teacher or "
            "images."
        )
    if config.by == "mean" and not config.ema:
        raise SettingError("by=mean needs a running mean of the weights; give its decay (--set ema=0.998).")
    if config.earliest >= config.latest:
        raise SettingError(
            f"the latents would be denoised for at least {config.earliest:g} and at most {config.latest:g} of the "
            "sampler's steps; --set earliest=... must be below --set latest=..."
        )


def check_single(family: Family, paths: Sequence[str]) -> None:
    """Refuse to train weights themselves in half precision.

    Raises:
        SettingError: one of them is.
    """
    dtypes = {family.parameter(path).dtype for path in paths}
    if half := dtypes - {torch.float32}:
        raise SettingError(
            f"weights=full trains the weights in single precision, and the model is loaded in {half.pop()}; load "
            "it with --dtype float32, or train a LoRA (--set weights=lora)."
        )


def weights_of(problem: TrainingProblem, config: DistilledConfig, paths: Sequence[str]) -> Weights:
    """What is trained: a LoRA, perhaps one of few blocks, or the weights, perhaps under a mask."""
    family = problem.family
    if config.weights == "lora" and config.sparsity:
        return SparseAdapter(family, paths, config.rank, problem.seed, sparsity=config.sparsity)
    if config.weights == "lora":
        return Adapter(family, paths, config.rank, problem.seed)
    if config.mask == "none":
        return FullWeights(family, paths)
    turnover = config.turnover if config.mask == "dynamic" else 0.0
    return Masked(family, paths, turnover=turnover, every=config.refresh, steps=config.steps)


def without_silent(
    weights: Weights, modules: Mapping[str, Delta], evidence: Mapping[str, Any]
) -> tuple[Mapping[str, Delta], Mapping[str, Any]]:
    """Leave out the maps of blocks that a sparse LoRA left at zero, and name the blocks in the evidence.

    Raises:
        TrainingError: all of them are.
    """
    if not isinstance(weights, SparseAdapter):
        return modules, evidence
    kept = {path: delta for path, delta in modules.items() if isinstance(delta, LowRank) and bool(delta.a.any())}
    if not kept:
        raise TrainingError("every block of the LoRA ended at zero; lower --set sparsity=... and train again.")
    return kept, {**evidence, "silent_blocks": weights.blocks_without(kept)}


def filled(problem: TrainingProblem, concept: Concept, words: Sequence[str]) -> list[str]:
    """Words in every template of a concept's kind, one word after the other."""
    return [p for word in words for p in fill(problem.templates[concept.kind], word)]


def anchored(problem: TrainingProblem, concept: Concept) -> list[str]:
    """The prompts of `filled` for the concept's words, with its anchor, or nothing, in their place."""
    return filled(problem, concept, [concept.anchor or ""] * len(concept.words))


def prompts_about(problem: TrainingProblem, weights: Weights, kind: str, names: Sequence[str]) -> Prompts:
    """Names in every template of a kind, one name after the other, and where they stand in their prompts."""
    texts = [p for name in names for p in fill(problem.templates[kind], name)]
    return prompts_of(weights, texts, [name for name in names for _ in problem.templates[kind]])


def spread(texts: Sequence[str], count: int) -> list[str]:
    """`count` of the texts: evenly spaced ones where there are more, all of them again and again where there are fewer.

    So pictures reach every word and every template of a target, however few they are.
    """
    if count <= len(texts):
        return evenly(texts, count)
    return [texts[i % len(texts)] for i in range(count)]


def drawn(problem: TrainingProblem, config: DistilledConfig) -> Material:
    """Draw the pictures that the settings ask for, with the untouched model."""
    latents = [_pictures_of(problem, config, c) for c in problem.concepts] if config.by == "images" else []
    if config.retain_on == "latents" or not config.retain_weight:
        return Material(latents)
    captions = evenly([*problem.retain] or [""], config.pictures)
    if config.retain_on == "anchor":
        texts = [p for c in problem.concepts for p in anchored(problem, c)]
        captions = spread(texts, config.pictures)
    return Material(latents, _latents(problem, captions, "kept"), captions)


def _pictures_of(problem: TrainingProblem, config: DistilledConfig, concept: Concept) -> Tensor:
    texts = filled(problem, concept, concept.words) if config.shown == "target" else anchored(problem, concept)
    return _latents(problem, spread(texts, config.pictures), "shown", concept.name)


def _latents(problem: TrainingProblem, prompts: Sequence[str], *of: str) -> Tensor:
    seeds = [picture_seed(problem.seed, *of, i) for i in range(len(prompts))]
    images = problem.sampling.draw(
        problem.family, prompts, seeds, lambda done, total: problem.say("drawing pictures to train on", done, total)
    )
    return problem.family.latents(images)


def source_of(
    problem: TrainingProblem,
    config: DistilledConfig,
    weights: Weights,
    material: Material,
    kept: Kept | None = None,
    average: Average | None = None,
    located: bool = False,
    pool: Pool | None = None,
) -> Source:
    """Where a method's batches come from.

    Args:
        kept: what is to be retained; None for all that the settings say.
        located: look up where the targets' words stand in their prompts.
        pool: of latents that serve several passes.
    """
    kept = kept_of(problem, config, weights, material) if kept is None else kept
    if config.by != "images":
        source = replace(trajectories(problem, config, weights, kept, located), pool=pool)
        return source if average is None or config.by != "mean" else replace(source, sampled_with=average.in_force)

    concepts = []
    for c in problem.concepts:
        words = spread([word for word in c.words for _ in problem.templates[c.kind]], config.pictures)
        texts = spread(filled(problem, c, c.words), config.pictures)
        concepts.append(prompts_of(weights, texts, words if located else None))
    return NoisedPictures(
        weights,
        concepts,
        [prompts_of(weights, spread(anchored(problem, c), config.pictures)) for c in problem.concepts],
        material.latents,
        empty_prompt(weights),
        kept,
        config.batch,
        (config.earliest, config.latest),
        problem.original,
    )


def kept_of(
    problem: TrainingProblem, config: DistilledConfig, weights: Weights, material: Material, nothing: bool = True
) -> Kept:
    """What is to be retained, the prompts encoded.

    Args:
        nothing: whether the empty prompt is among them.
    """
    if not config.retain_weight:
        return Kept()
    if material.kept is not None:
        return Kept(pictures=Pictures(material.kept, prompts_of(weights, material.captions)))
    texts = [*problem.retain, *([""] if nothing else [])]
    return Kept(prompts_of(weights, texts)) if texts else Kept()


def trajectories(
    problem: TrainingProblem,
    config: DistilledConfig,
    weights: Weights,
    kept: Kept | None = None,
    located: bool = False,
) -> Trajectories:
    """Batches of latents that are being denoised: the targets' words in their templates, and their anchors in them.

    Args:
        kept: what is to be retained; None for the prompts that the settings say.
        located: look up where the targets' words stand in their prompts.
    """
    if located:
        concepts = [prompts_about(problem, weights, c.kind, c.words) for c in problem.concepts]
    else:
        concepts = [prompts_of(weights, filled(problem, c, c.words)) for c in problem.concepts]
    return Trajectories(
        weights,
        concepts,
        [prompts_of(weights, anchored(problem, c)) for c in problem.concepts],
        empty_prompt(weights),
        kept_of(problem, config, weights, NOTHING_DRAWN) if kept is None else kept,
        size=config.batch,
        by="teacher" if config.by == "teacher" else "student",
        steps=config.sampler_steps,
        guidance=config.guidance,
        window=(config.earliest, config.latest),
        untouched=problem.original,
    )
