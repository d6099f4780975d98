"""Text states saved on disk, so that tokens are encoded once although the edit that needs them is made many times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from excise.families.base import Family
from excise.families.fingerprints import text_encoder_print
from excise.families.networks import adapters, hooked
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until


def encode_known(
    family: Family,
    texts: Sequence[str],
    subjects: Sequence[str | int | None],
    folder: Path,
    until: Sequence[Until] | None = None,
) -> TextStates:
    """Encode as `family.encode` does, but read from `folder` what it holds of this text encoder, and save the rest.

    Nothing is saved for a text encoder with hooks or a LoRA, since its weights alone do not identify it.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
        OutputError: the folder cannot be written.
    """
    if any(hooked(encoder) or adapters(encoder) for encoder in family.text_encoders.values()):
        return family.encode(texts, subjects, until)
    weights = family.text_encoder_weights
    # The precision and the kind of device count too: half-precision states must not stand in for single ones.
    precision = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    known = KnownStates(folder / f"{text_encoder_print(family)[:16]}-{precision}-{family.device.type}")
    states = family.encode(texts, subjects, until, known)
    known.save()
    return states
