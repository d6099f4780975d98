"""Prompt injection: through which attention blocks a target's prompt acts, found without any training.

One block after another reads the empty prompt while all others read the target's; where the target goes missing, its
prompt acted through that block (the idea of arXiv 2405.01008 and 2502.09935). A cheap filter before blocks are trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.guidance import conditional_rows
from excise.support.progress import part_of
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem

SHARE = 1 / 3  # of the blocks that stay


def strongest(problem: TrainingProblem, preview: Preview, known: Sequence[str]) -> list[str]:
    """The third of the blocks whose injection loses the target most often, in the order of the network."""
    erased = []
    for i, block in enumerate(known):
        report = part_of(problem.say, "injecting", i, len(known))
        with injected(problem.family, block):
            erased.append(preview.rates(preview.draw(report)).erase)
    ranked = sorted(range(len(known)), key=lambda i: -erased[i])  # stable: earlier blocks first
    return [known[i] for i in sorted(ranked[: math.ceil(SHARE * len(known))])]


@contextmanager
def injected(family: Family, block: str, prompt: str = "") -> Iterator[None]:
    """Drawing in which one block's cross-attention reads `prompt` instead of the prompts; unconditional rows stay."""
    paths = [m.path for m in family.attention_maps() if (m.block, m.source) == (block, "cross") and m.part in "kv"]
    modules = {path: family.denoiser.get_submodule(path) for path in paths}
    seen = _read(family, modules, prompt)

    def replace(path: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[conditional_rows(len(output))] = seen[path].to(output)
            return changed

        return hook

    hooks = [module.register_forward_hook(replace(path)) for path, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _read(family: Family, modules: dict[str, Any], prompt: str) -> dict[str, Tensor]:
    """(1, L, out): what keys and values make of a prompt; text alone decides it, so once is enough."""
    seen: dict[str, Tensor] = {}
    hooks = [m.register_forward_hook(lambda _, args, out, path=p: seen.update({path: out})) for p, m in modules.items()]
    try:
        family.predict(torch.zeros(1, *family.latent_shape), torch.tensor([500]), family.condition([prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    return seen
