"""Text states saved on disk, so that a prompt is encoded once although the edit that needs it is made many times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from excise.families.base import Family
from excise.families.fingerprints import text_encoder_print
from excise.families.networks import adapters, hooked
from excise.families.text_states import TextStates
from excise.support.digests import short_digest
from excise.support.files import write_atomically


def encode_known(
    family: Family, texts: Sequence[str], subjects: Sequence[str | int | None], folder: Path
) -> TextStates:
    """Encode as `family.encode` does, but read from `folder` what it holds of this text encoder, and save the rest.

    There is one file for each prompt and subject. A damaged file, or one of an earlier format, is written again.
    Nothing is saved for a text encoder with hooks or a LoRA, since its weights alone do not identify it.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
        OutputError: the folder cannot be written.
    """
    if any(hooked(encoder) or adapters(encoder) for encoder in family.text_encoders.values()):
        return family.encode(texts, subjects)
    weights = family.text_encoder_weights
    # The precision and the kind of device count too: half-precision states must not stand in for single ones.
    precision = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    home = folder / f"{text_encoder_print(family)[:16]}-{precision}-{family.device.type}"
    paths = [home / f"{_key(text, subject)}.safetensors" for text, subject in zip(texts, subjects, strict=True)]
    rows = [_load(path) for path in paths]
    missing = [i for i, row in enumerate(rows) if row is None]
    if missing:
        encoded = family.encode([texts[i] for i in missing], [subjects[i] for i in missing])
        for at, i in enumerate(missing):
            rows[i] = row = _row(encoded, at)
            write_atomically(paths[i], lambda p, row=row: save_file(row, p), durable=False)  # type: ignore[misc]
    return _joined([row for row in rows if row is not None], family.device)


def _row(states: TextStates, i: int) -> dict[str, Tensor]:
    """The tensors of one prompt, as they are saved."""
    row = {
        "states": states.states[i].cpu().contiguous(),
        "read": states.read[i].cpu().contiguous(),
        "places": torch.tensor([int(states.first[i]), int(states.last[i]), int(states.end[i]), int(states.start)]),
    }
    return row if states.pooled is None else {**row, "pooled": states.pooled[i].cpu().contiguous()}


def _joined(rows: Sequence[dict[str, Tensor]], device: torch.device) -> TextStates:
    """Text states of saved prompts; shorter ones are padded with rows that are not read."""
    whole = {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}
    first, last, end, start = whole["places"].unbind(dim=1)
    return TextStates(
        whole["states"].to(device),
        first,
        last,
        end,
        read=whole["read"],
        pooled=whole["pooled"].to(device) if "pooled" in whole else None,
        start=bool(start.all()),
    )


def _load(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file; None where there is none, it is damaged, or it is of an earlier format."""
    try:
        row = dict(load_file(path))
    except (OSError, SafetensorError):
        return None
    return row if "read" in row else None


def _key(text: str, subject: str | int | None) -> str:
    """The file name of a prompt and its subject."""
    return short_digest([text, subject])
