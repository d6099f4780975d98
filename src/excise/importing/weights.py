"""Weights of another tool against those of the base: what differs is the edit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from excise.edits.apply import original_weights
from excise.edits.deltas import Dense
from excise.errors import EditFileError, WrongBaseError
from excise.families.base import Family
from excise.importing.names import Names
from excise.importing.open_clip import from_open_clip

IGNORED = re.compile(r"(.*\.)?(position_ids|num_batches_tracked)|(first_stage_model|model_ema)\..*")
SINGLE_FILE = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")  # the parts in it that count here
# What some methods put beside a model's weights, by the names of its tensors.
MODULES = {
    "Receler": re.compile(r"(.*\.)?(attentions\.\d+|attn2|adapter)\.(adapter\.)?(down|up)\.(weight|bias)"),
    "SAeUron": re.compile(r"(.*\.)?(W_dec|b_dec)"),
}
MOST = 0.9  # of all matrices: a whole denoiser that differs in more is likely of another base


def placed(state: Mapping[str, Tensor], names: Names) -> tuple[dict[str, Tensor], str]:
    """Parameters by the names they have in the base, and what the layout is called.

    Raises:
        EditFileError: they are of modules beside the model, or one stands there twice and differs.
        WrongBaseError: one has no place in the base.
    """
    for method, pattern in MODULES.items():
        if any(pattern.fullmatch(name) and names.place(name, t) is None for name, t in state.items()):
            raise EditFileError(
                f"these are the modules that {method} puts beside a model's own weights, and an edit changes weights "
                f"alone, so they cannot be imported; put them into the pipeline with {method}'s own program and give "
                "that pipeline to excise.evaluate or excise.attack."
            )
    single = any(name.startswith(SINGLE_FILE[0]) for name in state)
    if single:
        state = {n: t for n, t in state.items() if n.startswith(SINGLE_FILE)}
    found: dict[str, Tensor] = {}
    homeless = []
    for name, tensor in from_open_clip(state, names).items():
        if IGNORED.fullmatch(name):
            continue
        place = names.place(name, tensor)
        if place is None:
            homeless.append(name)
        elif place in found and not torch.equal(found[place], tensor):
            raise EditFileError(
                f"'{place}' stands in the file under two names ('{name}' is one) with different numbers; keep one."
            )
        else:
            found[place] = tensor
    if homeless:
        raise WrongBaseError(
            f"{len(homeless)} tensors have no place in the base, '{homeless[0]}' for one; give the model that the "
            "result was made from."
        )
    return found, "CompVis" if single else "diffusers"


def differences(found: Mapping[str, Tensor], family: Family, names: Names) -> Iterable[tuple[str, Dense]]:
    """By path, what differs from the base beyond the rounding of the file's precision.

    Raises:
        EditFileError: a number is not finite.
        WrongBaseError: a shape is not that of the base.
    """
    paths = {name: name.removesuffix(".weight") for name in found}
    originals = original_weights(family, paths.values())
    for name, tensor in found.items():
        base = originals.get(paths[name], names.parameters[name])
        if _channels(base.shape) != _channels(tensor.shape):
            raise WrongBaseError(
                f"'{name}' has the shape {tuple(tensor.shape)}, in the base {tuple(base.shape)}; give the model that "
                "the result was made from."
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise EditFileError(f"'{name}' holds numbers that are not finite; the file is damaged.")
        one, two = tensor.float().cpu().reshape(base.shape), base.detach().float().cpu()
        # What is no more than the rounding of the coarser of both is no difference.
        eps = max(torch.finfo(t.dtype).eps for t in (tensor, base) if t.is_floating_point())
        if not torch.allclose(one, two, rtol=eps, atol=eps * float(two.abs().mean()) / 16):
            yield paths[name], Dense(one - two)


def all_differ(found: Mapping[str, Tensor], modules: Mapping[str, object], names: Names) -> tuple[int, int] | None:
    """How many matrices differ and how many there are, where a whole denoiser differs in nearly all; else None.

    A file of some of them alone is what was trained, and all of it may well differ.
    """
    there = [name for name, p in names.of_denoiser().items() if p.ndim > 1]
    held = [name for name in there if name in found]
    moved = sum(name.removesuffix(".weight") in modules for name in held)
    return (moved, len(there)) if len(held) == len(there) and moved > MOST * len(there) else None


def _channels(shape: torch.Size) -> tuple[int, ...]:
    """A shape without the kernel of a convolution of one pixel, which may be written as a linear map."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
