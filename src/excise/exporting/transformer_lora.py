"""Write LoRA files of diffusion transformers in the layouts of `excise.exporting.layouts`, and account for every key.

The scale is folded into the up factor, so that no reader needs metadata; where a layout has alphas, each is the rank of
its layer. Without alphas all factors have one rank, since older versions of diffusers take that of the first for all.
Where the original checkpoint stacks several maps, a layout with its names stacks their factors too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from excise.edits.deltas import LowRank
from excise.edits.edit import Edit
from excise.edits.exports import export_name
from excise.edits.originals import original_weights
from excise.edits.provenance import FORMAT, Evidence
from excise.errors import OutputError, WrongBaseError
from excise.exporting.factors import check_maps, lora_factors, padded
from excise.exporting.layouts import ORIGINAL, TRANSFORMERS, Layout, layout_of
from excise.exporting.record import our_record
from excise.families.base import Family
from excise.families.networks import in_encoder, parameters
from excise.families.transformer_names import Piece, original_pieces, spans
from excise.support.files import write_tensors

ALPHA = ".alpha"


class Layers(NamedTuple):
    """The layers of a file.

    Attributes:
        changed: names of those that the edit changes, as they stand behind the prefix.
        zero: names of those whose change is nothing, which some reader needs.
        groups: by name of a layer, all that stack with it in the original checkpoint.
    """

    changed: list[str]
    zero: list[str]
    groups: Mapping[str, Sequence[str]]


def check(edit: Edit, family: Family, format: str) -> None:
    """Refuse an edit that the layout cannot represent; raises WrongBaseError."""
    layout = layout_of(family.name, format)
    if encoders := sorted({p.partition(".")[0] for p in edit.paths if in_encoder(p, family.text_encoders)}):
        raise WrongBaseError(
            f"no LoRA that all readers of {TRANSFORMERS[family.name].title} take changes its text encoders, and this "
            f"edit changes '{encoders[0]}'; use --format merged."
        )
    check_maps(edit, family)
    if layout.names == ORIGINAL:
        placed = {piece.name for pieces in _stacks(family).values() for piece in pieces}
        if lost := [path for path in edit.paths if path not in placed]:
            raise WrongBaseError(
                f"no name of '{lost[0]}' in the original checkpoint is known, which a {format} of "
                f"{TRANSFORMERS[family.name].title} takes; use --format diffusers-lora or merged."
            )


def layers_of(edit: Edit, family: Family, format: str) -> Layers:
    """Return the layers that a file of an edit has, without writing it."""
    layout = layout_of(family.name, format)
    stacks = _stacks(family)
    if layout.names == ORIGINAL:
        names = [name for name, pieces in stacks.items() if {p.name for p in pieces} & set(edit.paths)]
        return Layers([_name(layout, name) for name in names], [], {})
    groups = _groups(stacks)
    missing = [name for path in edit.paths for name in groups.get(path, ()) if name not in edit.paths]
    zero = list(dict.fromkeys(missing)) if layout.completed else []
    return Layers([_name(layout, path) for path in edit.paths], [_name(layout, path) for path in zero], groups)


def write(
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path, format: str, evidence: Evidence
) -> tuple[Path, int, Callable[[str], Tensor]]:
    """Write a LoRA file into `folder`, and read it back.

    Returns:
        The file, its largest rank, and a function of a path that returns the change of that weight, read from the file.

    Raises:
        OutputError: the file cannot be written, or holds a key for which there is no rule.
    """
    layout, path = layout_of(family.name, format), folder / export_name(format, [c.name for c in edit.record.concepts])
    factors, stacks = lora_factors(edit, weights), _stacks(family)
    if layout.names == ORIGINAL:
        changed = {n: pieces for n, pieces in stacks.items() if {p.name for p in pieces} & factors.keys()}
        lengths = _lengths(family, [piece.name for pieces in changed.values() for piece in pieces])
        factors = {name: _stacked(pieces, factors, lengths) for name, pieces in changed.items()}
    elif layout.completed:
        factors = padded(factors | _zeros(family, factors, _groups(stacks)))
    rank = max(len(f.a) for f in factors.values())
    state: dict[str, Tensor] = {}
    for name, f in factors.items():
        key = layout.key(name)
        state |= {key + layout.factors[0]: f.a, key + layout.factors[1]: f.b}
        if layout.flat:
            state[key + ALPHA] = torch.tensor(float(len(f.a)))
    write_tensors(path, state, {"format": "pt", **_metadata(edit, family, format, rank, evidence)})
    written = load_file(path)
    account(path, written, layout, layers_of(edit, family, format))

    def change(place: str) -> Tensor:
        if layout.names != ORIGINAL:
            return _product(written, layout, place)
        whole = torch.zeros(weights[place].shape)
        for name, pieces in changed.items():
            for piece, theirs, ours in spans(pieces, lengths):
                if piece.name == place:
                    whole[ours] = _product(written, layout, name)[theirs]
        return whole

    return path, rank, change


def account(path: Path, state: Mapping[str, Tensor], layout: Layout, layers: Layers) -> None:
    """Hold every key of a written file against its layout.

    Raises:
        OutputError: a key is missing, or is none that the rules of the readers speak of.
    """
    names = [*layers.changed, *layers.zero]
    endings = (*layout.factors, ALPHA) if layout.flat else layout.factors
    expected = {layout.prefix + name + ending for name in names for ending in endings}
    if odd := sorted(expected ^ set(state)):
        raise OutputError(
            f"{path} was written with keys for which no reader's rule is known ('{odd[0]}' is one); use --format "
            "merged, and please report this defect."
        )
    zero = {layout.prefix + name + layout.factors[1] for name in layers.zero}
    if filled := [key for key in zero if bool(state[key].any())]:
        raise OutputError(
            f"{path} changes '{filled[0]}', which the edit does not; please report this defect of excise."
        )


def _name(layout: Layout, layer: str) -> str:
    """The name of a layer as it stands behind the prefix."""
    return layout.key(layer).removeprefix(layout.prefix)


def _stacks(family: Family) -> dict[str, tuple[Piece, ...]]:
    """By name of a layer in the original checkpoint, the pieces of diffusers' layers of which it consists."""
    pieces = original_pieces(family.name, parameters(family.denoiser), whole=False)
    return {
        _layer(name): tuple(Piece(_layer(p.name), p.part, p.parts) for p in row)
        for name, row in pieces.items()
        if name.endswith(".weight")
    }


def _groups(stacks: Mapping[str, Sequence[Piece]]) -> dict[str, list[str]]:
    """By name of a layer in diffusers, those that stack with it, itself included, where there is more than one."""
    groups = {}
    for pieces in stacks.values():
        names = list(dict.fromkeys(piece.name for piece in pieces))
        groups.update({name: names for name in names if len(names) > 1})
    return groups


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _lengths(family: Family, paths: Sequence[str]) -> dict[str, int]:
    return {path: len(weight) for path, weight in original_weights(family, dict.fromkeys(paths)).items()}


def _stacked(pieces: Sequence[Piece], factors: Mapping[str, LowRank], lengths: Mapping[str, int]) -> LowRank:
    """Return the factors of a stacked layer: the down factors one below the other, each up factor in its own rows."""
    names = [name for name in dict.fromkeys(piece.name for piece in pieces) if name in factors]
    a = torch.cat([factors[name].a for name in names])
    rows = sum(lengths[piece.name] // piece.parts for piece in pieces)
    b, start = torch.zeros(rows, len(a)), dict[str, int]()
    for name in names:
        start[name] = sum(len(factors[other].a) for other in names[: names.index(name)])
    for piece, theirs, ours in spans(pieces, lengths):
        if piece.name in start:
            columns = slice(start[piece.name], start[piece.name] + len(factors[piece.name].a))
            b[theirs, columns] = factors[piece.name].b[ours]
    return LowRank(b, a)


def _zeros(family: Family, factors: Mapping[str, LowRank], groups: Mapping[str, Sequence[str]]) -> dict[str, LowRank]:
    """Return changes of nothing, of rank 1, for the layers that stack with a changed one."""
    missing = dict.fromkeys(name for path in factors for name in groups.get(path, ()) if name not in factors)
    shapes = {path: weight.shape for path, weight in original_weights(family, missing).items()}
    return {path: LowRank(torch.zeros(shape[0], 1), torch.zeros(1, shape[1])) for path, shape in shapes.items()}


def _product(written: Mapping[str, Tensor], layout: Layout, layer: str) -> Tensor:
    key = layout.key(layer)
    down, up = written[key + layout.factors[0]], written[key + layout.factors[1]]
    alpha = float(written[key + ALPHA]) if layout.flat else float(len(down))
    return up @ down * (alpha / len(down))


def _metadata(edit: Edit, family: Family, format: str, rank: int, evidence: Evidence) -> dict[str, str]:
    fields = {FORMAT: format, **our_record(edit, evidence)}
    if layout_of(family.name, format).flat:
        fields |= {**TRANSFORMERS[family.name].kohya, "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    return fields
