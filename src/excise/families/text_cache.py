"""Text states kept on disk, so that a concept is encoded once, however often the edit it is part of is made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from excise.families.base import Family, TextStates, text_encoder_print
from excise.families.networks import adapters, hooked
from excise.support.digests import short_digest
from excise.support.files import write_atomically


def encode_known(
    family: Family, texts: Sequence[str], subjects: Sequence[str | int | None], folder: Path
) -> TextStates:
    """As `family.encode`; what `folder` holds of this text encoder is read, the rest encoded and added to it.

    One file a prompt and subject. A damaged one is made again. Nothing is kept of a text encoder with hooks or a LoRA,
    of which its weights do not tell.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
        OutputError: the folder cannot be written.
    """
    if any(hooked(encoder) or adapters(encoder) for encoder in family.text_encoders.values()):
        return family.encode(texts, subjects)
    weights = family.text_encoder_weights
    # A state is one of a precision and of a kind of device too: half-precise ones must not stand for single ones.
    precision = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    home = folder / f"{text_encoder_print(family)[:16]}-{precision}-{family.device.type}"
    paths = [home / f"{_key(text, subject)}.safetensors" for text, subject in zip(texts, subjects, strict=True)]
    rows = [_read(path) for path in paths]
    missing = [i for i, row in enumerate(rows) if row is None]
    if missing:
        found = family.encode([texts[i] for i in missing], [subjects[i] for i in missing])
        for at, i in enumerate(missing):
            rows[i] = row = _row(found, at)
            write_atomically(paths[i], lambda p, row=row: save_file(row, p), durable=False)  # type: ignore[misc]
    whole: dict[str, Tensor] = {name: torch.stack([r[name] for r in rows if r is not None]) for name in rows[0] or {}}
    first, last, end, masked = whole["places"].unbind(dim=1)
    return TextStates(
        whole["states"].to(family.device),
        first,
        last,
        end,
        pads=not bool(masked.any()),
        pooled=whole["pooled"].to(family.device) if "pooled" in whole else None,
    )


def _row(states: TextStates, i: int) -> dict[str, Tensor]:
    """One prompt's part, as it is written."""
    row = {
        "states": states.states[i].cpu().contiguous(),
        "places": torch.tensor([int(states.first[i]), int(states.last[i]), int(states.end[i]), int(not states.pads)]),
    }
    return row if states.pooled is None else {**row, "pooled": states.pooled[i].cpu().contiguous()}


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError):
        return None


def _key(text: str, subject: str | int | None) -> str:
    return short_digest([text, subject])
