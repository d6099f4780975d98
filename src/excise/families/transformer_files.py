"""A transformer in one file (ComfyUI's *diffusion_models*), whose pipeline's other parts are in a diffusers folder.

The file may have the names of the original checkpoint or those of diffusers, behind a prefix or bare, and may hold
other parts as well, which are left. Where the original names of a family are all known, weights stay in the file until
something asks for them; otherwise diffusers reads the transformer whole.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from excise.errors import ModelError, WrongBaseError
from excise.families.architectures import prefix_of
from excise.families.networks import parameters
from excise.families.tensors import Stored, TensorFiles
from excise.families.transformer_names import Piece, original_pieces, spans

# Tensors of original checkpoints that nothing computes with.
_UNUSED = {"zimage": ("norm_final.weight",), "lumina2": ("norm_final.weight",)}


def weights_in(path: Path, family: str, network: nn.Module) -> TensorFiles | None:
    """The weights of a transformer in a file, by their names in diffusers.

    Args:
        path: the file.
        family: of the transformer.
        network: the transformer without its weights.

    Returns:
        None where only diffusers knows the names in the file.

    Raises:
        ModelError: the file holds weights that the transformer has no place for, as quantised ones have scales.
    """
    files, wanted = TensorFiles.of_file(path), parameters(network)
    prefix = prefix_of(files)
    theirs = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
    try:
        plain = all(name in theirs for name in wanted)
        pieces = {name: (Piece(name),) for name in wanted} if plain else original_pieces(family, wanted)
    except WrongBaseError:
        return None
    if more := sorted(theirs - set(pieces) - set(network.state_dict()) - set(_UNUSED.get(family, ()))):
        raise ModelError(
            f"{path} holds '{prefix}{more[0]}', for which the transformer in --config has no place: the file is "
            "quantised with scales of its own, or of another variant than the folder. Give the unquantised file, and "
            "the folder of the same variant."
        )
    runs: dict[str, list[tuple[int, Stored]]] = {name: [] for name in wanted}
    for original, row in pieces.items():
        whole = files.stored(prefix + original)
        for piece, there, here in spans(row, {name: len(wanted[name]) for name in (p.name for p in row)}):
            runs[piece.name].append((here.start, _rows(whole, there)))
    stored = {name: _joined([part for _, part in sorted(parts, key=_first)]) for name, parts in runs.items()}
    return TensorFiles(stored, path)


def _first(part: tuple[int, Any]) -> int:
    return part[0]


def _rows(whole: Stored, rows: slice) -> Stored:
    """Consecutive rows of a stored tensor; they lie one behind the other."""
    entry = whole.entry
    size = (entry.end - entry.begin) // entry.shape[0]
    begin, end = entry.begin + rows.start * size, entry.begin + rows.stop * size
    shape = (rows.stop - rows.start, *entry.shape[1:])
    return replace(whole, entry=replace(entry, begin=begin, end=end, shape=shape))


def _joined(parts: list[Stored]) -> Stored:
    """Stored rows one below the other, as one tensor that lies in several places."""
    first, *others = parts
    if not others:
        return first
    shape = (sum(part.entry.shape[0] for part in parts), *first.entry.shape[1:])
    return replace(first, entry=replace(first.entry, shape=shape), places=tuple(p.entry for p in parts))
