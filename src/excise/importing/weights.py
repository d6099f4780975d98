"""Compare weights of another tool with those of the base; the differences are the edit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from excise.edits.deltas import Dense
from excise.edits.originals import original_weights
from excise.errors import EditFileError, WrongBaseError
from excise.families.base import Family
from excise.importing.names import Names
from excise.importing.open_clip import from_open_clip

IGNORED = re.compile(r"(.*\.)?(position_ids|num_batches_tracked)|(first_stage_model|model_ema)\..*")
SINGLE_FILE = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")  # the components that are imported
# Modules that some methods add to a model, by the names of their tensors.
MODULES = {
    "Receler": re.compile(r"(.*\.)?(attentions\.\d+|attn2|adapter)\.(adapter\.)?(down|up)\.(weight|bias)"),
    "SAeUron": re.compile(r"(.*\.)?(W_dec|b_dec)"),
}
MOST = 0.9  # share of matrices; a denoiser that differs in more probably has another base


def match_names(state: Mapping[str, Tensor], names: Names) -> tuple[dict[str, Tensor], str]:
    """Return tensors by their parameter's name in the base, and the name of the file's layout.

    Raises:
        EditFileError: the file contains modules that a method adds to a model, or one parameter twice with different
            numbers.
        WrongBaseError: the base has no such parameter.
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
    weights: dict[str, Tensor] = {}
    unmatched = []
    for name, tensor in _unstacked(from_open_clip(state, names), names).items():
        if IGNORED.fullmatch(name) or names.is_buffer(name):
            continue
        place = names.place(name, tensor)
        if place is None:
            unmatched.append(name)
        elif place in weights and not torch.equal(weights[place], tensor):
            raise EditFileError(
                f"'{place}' stands in the file under two names ('{name}' is one) with different numbers; keep one."
            )
        else:
            weights[place] = tensor
    if unmatched:
        raise WrongBaseError(
            f"{len(unmatched)} tensors have no place in the base, '{unmatched[0]}' for one; give the model that the "
            "result was made from."
        )
    return weights, "CompVis" if single else "diffusers"


def _unstacked(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return tensors of which each means one parameter of the base; those that the file stacks are taken apart.

    Raises:
        WrongBaseError: a stack has another number of rows than the base.
    """
    apart: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pieces = names.stack(name)
        if pieces is None:
            apart[name] = tensor
            continue
        spans = names.spans(pieces)
        if len(tensor) != spans[-1][1].stop:
            raise WrongBaseError(
                f"'{name}' has {len(tensor)} rows, in the base {spans[-1][1].stop}; give the model that the result was "
                "made from."
            )
        for own in dict.fromkeys(piece.name for piece in pieces):
            rows = sorted((ours.start, theirs) for piece, theirs, ours in spans if piece.name == own)
            apart[own] = torch.cat([tensor[theirs] for _, theirs in rows])
    return apart


def differences(weights: Mapping[str, Tensor], family: Family, names: Names) -> Iterable[tuple[str, Dense]]:
    """Yield the path and the difference of each weight that differs from the base by more than rounding.

    Args:
        weights: tensors by their parameter's name in the base.

    Raises:
        EditFileError: a number is not finite.
        WrongBaseError: the base has another shape.
    """
    paths = {name: name.removesuffix(".weight") for name in weights}
    originals = original_weights(family, paths.values())
    for name, tensor in weights.items():
        base = originals.get(paths[name], names.parameters[name])
        if _channels(base.shape) != _channels(tensor.shape):
            raise WrongBaseError(
                f"'{name}' has the shape {tuple(tensor.shape)}, in the base {tuple(base.shape)}; give the model that "
                "the result was made from."
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise EditFileError(f"'{name}' holds numbers that are not finite; the file is damaged.")
        one, two = tensor.float().cpu().reshape(base.shape), base.detach().float().cpu()
        # Differences within the rounding of the coarser dtype do not count.
        eps = max(torch.finfo(t.dtype).eps for t in (tensor, base) if t.is_floating_point())
        if not torch.allclose(one, two, rtol=eps, atol=eps * float(two.abs().mean()) / 16):
            yield paths[name], Dense(one - two)


def nearly_all_differ(
    weights: Mapping[str, Tensor], modules: Mapping[str, object], names: Names
) -> tuple[int, int] | None:
    """Return how many matrices differ and how many there are if a whole denoiser differs nearly everywhere; else None.

    A file with a part of the denoiser contains what was trained, all of which may well differ.

    Args:
        weights: tensors of the file by their parameter's name in the base.
        modules: the differences, by path.
    """
    matrices = [name for name, p in names.of_denoiser().items() if p.ndim > 1]
    if not all(name in weights for name in matrices):
        return None
    differing = sum(name.removesuffix(".weight") in modules for name in matrices)
    return (differing, len(matrices)) if differing > MOST * len(matrices) else None


def _channels(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape without the kernel of a 1 x 1 convolution, which may be stored as a linear layer."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
