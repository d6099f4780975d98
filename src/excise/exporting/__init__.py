"""Export an edit for other programs: a LoRA in one of three layouts, a merged pipeline folder or a single file.

Each export is read back and compared with the edit; the error is part of the result. `excise.exporting.readers` lists
which program reads which format, and how much of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from excise.edits.apply import alone
from excise.edits.bases import check_base
from excise.edits.edit import Edit
from excise.edits.exports import FORMATS, export_name, others_beside
from excise.edits.hooks import refuse_hooks
from excise.edits.originals import original_weights
from excise.edits.provenance import Evidence
from excise.errors import ExciseWarning, ModelError, WrongBaseError, unknown
from excise.exporting import lora, merged, single_file, transformer_file, transformer_lora
from excise.exporting.card import Card, licence_of, write_card
from excise.exporting.factors import check_paths
from excise.exporting.gates import UNGATED, without_gates
from excise.exporting.layouts import TRANSFORMERS
from excise.exporting.piecewise import in_folders, unread
from excise.exporting.place import check_place
from excise.exporting.readers import (
    LORA,
    Reading,
    check_reader,
    describe,
    formats_for,
    losses,
    program_of,
    readers_of,
    readings,
)
from excise.families.base import Family
from excise.families.load import as_family
from excise.families.networks import as_saved
from excise.families.outline import is_outline
from excise.families.whole import absent_parts
from excise.support import display
from excise.support.counts import counted
from excise.support.display import as_html, as_text
from excise.support.files import make_folder


@dataclass(frozen=True, repr=False)
class Exported:
    """A written export.

    Attributes:
        path: the file, or the folder of a merged pipeline.
        format: one of `FORMATS`.
        rank: the largest LoRA rank; 0 for a whole model.
        error: maximum over the edited weights of |exported change - change| / |change| (Frobenius norms).
        readers: by name of a program in `excise.exporting.readers`, how much of the export it reads.
        card: the model card; None where files of that name are there that are not ours.
        ungated: the edit opens for prompts near its targets alone, and the export acts on every prompt (SPM).
    """

    path: Path
    format: str
    rank: int
    error: float
    readers: Mapping[str, Reading] = field(default_factory=dict)
    card: Path | None = None
    ungated: bool = False

    def __repr__(self) -> str:
        return as_text(self._shown())

    def _repr_html_(self) -> str:
        return as_html(self._shown())

    def _shown(self) -> display.Card:
        """What the export shows of itself; `card` is the name of its model card."""
        readers = describe(self.readers)
        facts = [
            ("file", str(self.path)),
            ("readers", " ".join(readers)),
            ("error", f"{self.error:.1e} of the edit" if self.error else "an exact copy of the edit"),
            ("model card", str(self.card) if self.card else "none: other files of its name are there"),
            ("rank", str(self.rank) if self.rank else ""),
            ("gates", "none: it acts on every prompt" if self.ungated else ""),
        ]
        rows = [(r.program, r.version, f"{r.taken} of {r.maps}") for r in self.readers.values()]
        return display.Card(f"Export: {self.format}", facts, ("program", "version", "maps read"), rows)


def export(
    edit: Edit,
    model: Any,
    out: str | Path,
    format: str | None = None,
    *,
    for_: str | None = None,
    allow_other_base: bool = False,
    source: str | Path | None = None,
    force: bool = False,
) -> Exported:
    """Write `edit` in a format that other programs load, and a model card beside it.

    Args:
        edit: the edit to export.
        model: the pipeline (or family) that the edit was made for. Edits that are applied to it do not count.
        out: a folder.
        format: diffusers-lora, comfyui-lora, kohya-lora, merged or single-file. By default the first that `for_` reads
            completely; without `for_`, the LoRA that most programs read: a kohya LoRA for Stable Diffusion and SDXL, a
            comfyui LoRA for diffusion transformers that have one, and a diffusers LoRA for other families.
        for_: the program that will load it: comfyui, webui, invokeai, sd-cpp, sd-scripts, diffusers, nunchaku,
            onetrainer, musubi or ai-toolkit.
        allow_other_base: export even if the model's weights differ from those the edit was made for.
        source: the file of the edit, or its run folder; the digest of the file, and what was verified of it, go into
            the export and the card.
        force: replace an earlier export of another edit.

    Warns where a program of this format passes over a part of the file without an error, and where the edit's changes
    stand behind gates (SPM), which no file of other programs has: they act on every prompt there.

    Raises:
        UnknownNameError: no such format or program.
        WrongBaseError: the model is another one, or the format (every format of the program) cannot represent the edit.
        ModelError: the edit has hooks other than gates, or a component that a whole model needs is not loaded or cannot
            be saved.
        OutputError: `out` cannot be written, is the model itself, contains files that no export wrote, or an export of
            another edit.
    """
    if format is not None and format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    if for_ is not None:
        check_reader(for_)
    gated, edit = bool(edit.hooks), without_gates(edit)
    refuse_hooks(edit.hooks, edit.record, "an export holds weights alone")
    family = as_family(model)
    check_base(edit, family, allow_other_base)
    if format is None:
        format = choose_format(edit, family, for_)
    _check_format(edit, family, format)
    check_place(family, Path(out) / export_name(format, [c.name for c in edit.record.concepts]), edit.record, force)
    evidence = Evidence.of(source)
    if gated:
        evidence = replace(evidence, checks=())  # of the edit with its gates, which what is written does not have
    exported = _written(edit, family, make_folder(Path(out)), format, evidence)
    lost = [*([UNGATED] if gated else []), *losses(exported.readers)]
    for sentence in lost:
        warnings.warn(f"of {exported.path.name}, {sentence}.", ExciseWarning, stacklevel=2)
    programs = [name for name, reading in exported.readers.items() if reading.whole]
    card = Card(
        edit.record,
        evidence.checks,
        format,
        exported.path.name,
        type(family.pipe).__name__,
        sorted(programs, key=lambda name: name != for_),
        licence_of(family),
        evidence.edit,
        others_beside(exported.path) if format != "merged" else {},
        lost,
        _absent(family, exported.path) if format == "merged" else (),
    )
    return replace(exported, card=write_card(Path(out), card), ungated=gated)


def _absent(family: Family, folder: Path) -> list[str]:
    """The parts that a merged folder lacks and that its pipeline's class asks for."""
    return [name for name in absent_parts(folder) if name not in type(family.pipe)._optional_components]


def _written(edit: Edit, family: Family, folder: Path, format: str, evidence: Evidence) -> Exported:
    """Write an edit in a format that can hold it, and read it back."""
    weights = original_weights(family, edit.paths)
    if format in LORA:
        writer = transformer_lora if family.name in TRANSFORMERS else lora
        path, rank, change = writer.write(edit, family, weights, folder, format, evidence)
        read = _readings(edit, family, format)
        return Exported(path, format, rank, _largest_error(edit, weights, change), read)
    if format == "merged":
        path, change = folder, merged.write(edit, family, weights, folder, evidence)
    elif family.name in TRANSFORMERS:
        path, change = transformer_file.write(edit, family, weights, folder, evidence)
    else:
        path, change = single_file.write(edit, family, weights, folder, evidence)
    return Exported(path, format, 0, _largest_error(edit, weights, change), readings(format, family.name, edit.paths))


def _readings(edit: Edit, family: Family, format: str) -> dict[str, Reading]:
    """Return, by program, how much it reads of a LoRA of an edit that the format can hold."""
    if family.name in TRANSFORMERS:
        return readings(format, family.name, *transformer_lora.layers_of(edit, family, format))
    names, markers = lora.map_names(edit, family, format), lora.marker_names(edit, family, format)
    return readings(format, family.name, names, markers)


def choose_format(edit: Edit, family: Family, for_: str | None) -> str:
    """Return the first format that the program reads completely.

    Raises:
        WrongBaseError: there is none.
    """
    if for_ is None:
        if family.name in TRANSFORMERS:
            return TRANSFORMERS[family.name].formats[0]
        return "kohya-lora" if family.name in lora.KOHYA else "diffusers-lora"
    program, version = program_of(for_, family.name)
    format, reason, lost = _format_of(edit, family, for_)
    if format is not None:
        return format
    if reason:
        raise WrongBaseError(f"no format that {program} reads holds this edit: {reason}")
    readers = readers_of(family.name)
    others = ", ".join([name for name in readers if _format_of(edit, family, name)[0] is not None] or readers)
    advice = f"use --for {others}"
    if lost:
        raise WrongBaseError(f"{program} {version} reads this edit whole in no format: {lost}; {advice}.")
    does = "is not known to read an edit" if family.name in TRANSFORMERS else "reads no edit"
    raise WrongBaseError(f"{program} {version} {does} of the family '{family.name}'; {advice}.")


def _format_of(edit: Edit, family: Family, program: str) -> tuple[str | None, str, str]:
    """The first format that a program reads completely, or None; why one cannot hold the edit; what one would lose."""
    reason, lost = "", ""
    for format in formats_for(program, family.name):
        if is_outline(family) and format not in LORA:
            return format, reason, lost  # which a loaded model may still have to refuse
        try:
            _check_format(edit, family, format)
        except WrongBaseError as error:
            reason = reason or str(error)
            continue
        if format not in LORA:
            return format, reason, lost
        reading = _readings(edit, family, format)[program]
        if reading.whole:
            return format, reason, lost
        lost = f"of a {format} it applies {reading.taken} of {counted(reading.maps, 'map')}, not '{reading.missed[0]}'"
    return None, reason, lost


def _check_format(edit: Edit, family: Family, format: str) -> None:
    """Refuse an edit or a model that the format cannot represent, before anything is written."""
    if format in LORA:
        check_paths(edit)
        (transformer_lora if family.name in TRANSFORMERS else lora).check(edit, family, format)
        return
    family.check_encoders()
    if format == "single-file" or not in_folders(family.pipe):
        family.complete()
    if family.pipe.vae is None:
        raise ModelError("the pipeline was loaded without its 'vae', which a whole model holds; load it with it.")
    if format == "single-file":
        if family.name in TRANSFORMERS:
            transformer_file.check(edit, family)
        else:
            single_file.check(family)
    with alone(edit, family), as_saved(family.pipe, unread(family.pipe)):  # refuses a pipeline that cannot be saved
        pass


def _largest_error(edit: Edit, weights: Mapping[str, Tensor], change: Callable[[str], Tensor]) -> float:
    errors = []
    for path in edit.paths:
        expected = edit.delta(path, weights[path].detach().cpu()).double()
        size = expected.norm()
        if size > 0:
            errors.append(float((change(path).cpu().double() - expected).norm() / size))
    return max(errors, default=0.0)
