"""Write a transformer, with the edit merged in, as one file in the layout of its original checkpoint.

Programs that keep the parts of a model apart (ComfyUI's *Load Diffusion Model*) load it in the place of the base's own
file; text encoders and autoencoder stay those of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from excise.edits.apply import alone
from excise.edits.edit import Edit
from excise.edits.exports import export_name
from excise.edits.provenance import FORMAT, Evidence
from excise.errors import OutputError, WrongBaseError
from excise.exporting.layouts import TRANSFORMERS
from excise.exporting.record import our_record
from excise.families.base import Family
from excise.families.networks import as_saved, bare, in_encoder, parameters
from excise.families.transformer_names import original_pieces, spans, stacked
from excise.support.files import write_tensors


def check(edit: Edit, family: Family) -> None:
    """Refuse an edit or a model that such a file cannot hold; raises WrongBaseError."""
    row = TRANSFORMERS[family.name]
    if not row.single:
        raise WrongBaseError(f"no single file of {row.title} is written here; use --format {' or '.join(row.formats)}.")
    if encoders := sorted({p.partition(".")[0] for p in edit.paths if in_encoder(p, family.text_encoders)}):
        raise WrongBaseError(
            f"the single file of {row.title} holds the transformer alone, and this edit changes '{encoders[0]}'; "
            "use --format merged."
        )
    original_pieces(family.name, parameters(family.denoiser))


def write(
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path, evidence: Evidence
) -> tuple[Path, Callable[[str], Tensor]]:
    """Write the file into `folder`, and read it back.

    Returns:
        The file, and a function of a path that returns the written weight minus that of the base.

    Raises:
        OutputError: the file cannot be written, or a weight of the transformer is not in it.
    """
    path = folder / export_name("single-file", [c.name for c in edit.record.concepts])
    with alone(edit, family), as_saved(family.pipe), torch.no_grad():
        own = {name: t.detach().cpu() for name, t in bare(family.denoiser).state_dict().items()}
    pieces = original_pieces(family.name, own)
    state = {name: stacked(row, own).contiguous() for name, row in pieces.items()}
    write_tensors(path, state, {"format": "pt", FORMAT: "single-file", **our_record(edit, evidence)})
    lengths = {name: len(tensor) for name, tensor in own.items()}
    del own, state
    read = load_file(path)
    placed = [(name, piece, at, ours) for name, row in pieces.items() for piece, at, ours in spans(row, lengths)]
    if missing := set(lengths) - {piece.name for _, piece, _, _ in placed} or set(pieces) ^ set(read):
        raise OutputError(
            f"{path} lacks '{min(missing)}'; please report this defect of excise, and use --format merged."
        )

    def change(place: str) -> Tensor:
        name = f"{place}.weight" if f"{place}.weight" in lengths else place
        written = torch.empty(weights[place].shape)
        for theirs, piece, at, ours in placed:
            if piece.name == name:
                written[ours] = read[theirs][at].float()
        return written - weights[place].float().cpu()

    return path, change
